"""Language models: their curvature against a network written out, their text, their caches, bad input."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import problems
from problems import Problem, data, training
from problems.cache import ENVIRONMENT_VARIABLE
from problems.losses import IGNORED
from problems.models import causal_lm, causal_lm_library
from problems.models.causal_lm_opt import OptSizes
from problems.models.causal_lm_trained import SMALL
from tests.problems.opt_oracle import OptOracle

pytest.importorskip("transformers")

# Nine sequences, one of them shorter, and three queries, one of them shorter; p = 144.
SOME: dict[str, Any] = {
    "training_size": 9,
    "num_queries": 3,
    "parameters": r"layers\.1\.(fc1|self_attn\.q)",
}
EVERY_ONE = "no_embeddings_no_norms"


@cache
def built(**parameters: Any) -> Problem:
    return problems.load("language_model", **parameters)


def weights(problem: Problem) -> Tensor:
    assert problem.task is not None
    return torch.cat([value.flatten() for value in problem.task.function.parameters.values()])


def tokens(problem: Problem, *, queries: bool = False) -> dict[str, Tensor]:
    assert problem.task is not None
    found: dict[str, Tensor] = (problem.task.queries if queries else problem.task.training).data
    return found


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "checkpoints"


def test_the_matrix_is_that_of_the_network_written_out() -> None:
    problem = built(**SOME)
    close(problem.operator.dense(), OptOracle(problem).gauss_newton())


def test_the_hessian_is_that_of_the_network_written_out() -> None:
    problem = built(
        training_size=9, num_queries=1, parameters=r"layers\.1\.self_attn\.k", curvature="hessian"
    )
    close(problem.operator.dense(), OptOracle(problem).hessian())


def test_right_hand_sides_are_gradients_of_the_queries_mean_losses() -> None:
    problem = built(**{**SOME, "parameters": EVERY_ONE})
    close(problem.columns(), OptOracle(problem).query_gradients())


def test_sequences_are_of_unequal_lengths_and_padding_does_not_count() -> None:
    problem = built(**SOME)
    for queries in (False, True):
        found = tokens(problem, queries=queries)
        lengths = found["attention_mask"].sum(dim=1)
        assert lengths.min() < lengths.max() == 16
        assert torch.equal(found["labels"] == IGNORED, found["attention_mask"] == 0)
        labelled = found["attention_mask"] == 1
        assert torch.equal(found["labels"][labelled], found["input_ids"][labelled])


def test_parameters_are_selected_by_preset_and_by_expression() -> None:
    """A layer of width 8 with 8 hidden units has six square matrices with biases; embeddings stay out."""
    assert built(training_size=9, parameters=EVERY_ONE).size == 2 * 6 * (8 * 8 + 8)
    problem = built(training_size=9, parameters=r"layers\.0\..*fc1\.weight")
    assert problem.size == 8 * 8 == problem.facts["selected parameters"]
    words = int(problem.facts["parameters"]) - (2 * 6 * (8 * 8 + 8) + 5 * 2 * 8 + (16 + 2) * 8)
    assert words == 8 * SMALL["opt-tiny"].tokenizer.vocabulary


def test_it_has_learnt_more_than_how_often_each_token_comes() -> None:
    facts = built(**SOME).facts
    assert float(facts["held-out perplexity"]) < 0.75 * float(facts["unigram perplexity"])
    assert facts["data"] == "descriptions"


def test_a_smaller_set_is_the_beginning_of_a_larger_one() -> None:
    small, large = tokens(built(**SOME)), tokens(built(**{**SOME, "training_size": 12}))
    assert torch.equal(small["input_ids"], large["input_ids"][:9])


def test_training_is_deterministic_and_kept(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = problems.load("language_model", **SOME)
    kinds = {path.name.rpartition("-")[0]: path.suffix for path in own_cache.iterdir()}
    assert kinds == {"opt-tiny": ".safetensors", "tokenizer": ".json", "tokens": ".safetensors"}
    torch.manual_seed(7)
    with monkeypatch.context() as patch:
        patch.setattr(training, "progress_bar", None)
        cached = problems.load("language_model", **SOME)
    for path in own_cache.iterdir():
        path.unlink()
    again = problems.load("language_model", **SOME)
    for other in (cached, again):
        assert torch.equal(weights(other), weights(first))
        assert torch.equal(other.columns(), first.columns())
        assert torch.equal(other.operator @ first.columns(), first.operator @ first.columns())
        assert other.facts == first.facts


def test_seed_epochs_and_text_have_checkpoints_of_their_own(own_cache: Path) -> None:
    quick = {**SOME, "epochs": 1}
    found = [problems.load("language_model", **quick, seed=seed) for seed in (0, 1)]
    found.append(problems.load("language_model", **{**quick, "epochs": 2}))
    assert len(list(own_cache.glob("opt-tiny-*"))) == 3
    assert not torch.equal(weights(found[0]), weights(found[1]))
    assert found[2].facts["trained on tokens"] == 2 * float(found[0].facts["trained on tokens"])
    assert torch.equal(tokens(found[0])["input_ids"], tokens(found[1])["input_ids"])


def test_the_network_is_the_same_in_float32() -> None:
    single = problems.load("language_model", dtype=torch.float32, **SOME)
    assert torch.equal(weights(single).double(), weights(built(**SOME)))


TEXT = "\n\n".join(
    f"{n} green bottles, hanging on the wall. And if one falls, {n - 1} are left." for n in range(99)
)


def test_a_text_file_and_sentences_of_the_users_own(tmp_path: Path, own_cache: Path) -> None:
    (tmp_path / "songs.txt").write_text(TEXT)
    (tmp_path / "queries.txt").write_text("green walls\n\nthe wall is green\nand?\n")
    parameters = {**SOME, "data": str(tmp_path / "songs.txt"), "queries": str(tmp_path / "queries.txt")}
    problem = problems.load("language_model", **{**parameters, "num_queries": None})
    assert problem.num_columns == 3
    close(problem.columns(), OptOracle(problem).query_gradients())
    assert problem.facts["data"] == str(tmp_path / "songs.txt")
    with pytest.raises(ValueError, match=r"num_queries is 4; .*queries.txt has 3 sentences"):
        problems.load("language_model", **{**parameters, "num_queries": 4})
    (tmp_path / "queries.txt").write_text("a wall that is green and that has been green for ever\n")
    with pytest.raises(
        ValueError, match=r"the query 'a wall that is .* has \d+ tokens; it must have 2 to 16"
    ):
        problems.load("language_model", **{**parameters, "num_queries": 1})


def test_random_weights_are_said_to_be_random() -> None:
    problem = built(**SOME, weights="random")
    assert problem.facts["weights"] == "random: for speed and memory alone"
    assert "held-out perplexity" not in problem.facts
    assert not torch.equal(weights(problem), weights(built(**SOME)))


def test_without_a_tokenizer_tokens_are_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_lm, "PUBLISHED", {"opt-1.3b": OptSizes(8, 1, 2, 8, positions=20)})
    parameters: dict[str, Any] = {"model": "opt-1.3b", "weights": "random", "parameters": "fc1"}
    problem = problems.load("language_model", **parameters, training_size=20, dtype=torch.float32)
    lengths = tokens(problem)["attention_mask"].sum(dim=1)
    # The default context is cut to what the model takes.
    assert lengths.min() < lengths.max() <= 20
    assert lengths.min() >= 10
    assert problem.facts["data"] == "random tokens"
    assert tokens(problem)["input_ids"].max() > 25_000
    for name, value in {"data": "sotu", "queries": "a.txt", "data_folder": "a"}.items():
        with pytest.raises(
            ValueError, match=f"has no tokenizer and takes random tokens .*: leave {name} out"
        ):
            problems.family("language_model", **parameters, **{name: value})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"model": "opt-smal"}, "no model 'opt-smal'; did you mean 'opt-small'"),
        ({"model": "/none"}, "there is no such folder"),
        ({"context": 17}, "context is 17, and opt-tiny has positions for 16 tokens"),
        ({"context": 7}, "context is 7; it must be at least 8"),
        ({"model": "opt-125m", "context": 2049}, "opt-125m has positions for 2048 tokens"),
        ({"model": "opt-125m", "epochs": 2}, "only opt-tiny and opt-small are trained here"),
        ({"weights": "random", "epochs": 2}, "only opt-tiny and opt-small are trained here"),
        ({"weights": "none"}, "weights is 'none'"),
        ({"data": "sotuu"}, "no text 'sotuu'; did you mean 'sotu'"),
        ({"data": "none.txt"}, "data is 'none.txt'; there is no such file"),
        ({"training_size": 0}, "training_size is 0"),
        ({"num_queries": 0}, "num_queries is 0"),
        ({"queries": "/nowhere.txt"}, "the file /nowhere.txt cannot be read"),
        ({"epochs": 0}, "epochs is 0"),
        ({"damping": -1.0}, "damping is -1"),
        ({"curvature": "fisher"}, "no curvature 'fisher'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_parameters_are_refused_before_anything_is_built(
    parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        problems.family("language_model", **parameters)


def test_too_few_sequences_and_a_filter_of_nothing_are_told() -> None:
    with pytest.raises(ValueError, match=r"training_size is 99999; .* of descriptions has \d+ sequences"):
        problems.load("language_model", training_size=99999)
    with pytest.raises(ValueError, match=r"num_queries is 99999; .* held out has \d+ sequences"):
        problems.load("language_model", num_queries=99999)
    with pytest.raises(ValueError, match="'none' selects nothing"):
        problems.load("language_model", parameters="none")


def test_without_transformers_all_else_works() -> None:
    """In a process of its own, in which they cannot be imported."""
    script = (
        "import sys; sys.modules.update(transformers=None, tokenizers=None, huggingface_hub=None)\n"
        "import problems\n"
        "assert 'language_model' in problems.available()\n"
        "assert not problems.available()['language_model'].examples()\n"
        "problems.load('quadratic')\n"
        "try: problems.load('language_model')\n"
        "except OSError as error: print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert causal_lm_library.INSTALL in found.stdout
    assert not found.stderr


@pytest.mark.usefixtures("users_cache")
def test_opt_small_has_learnt_english(monkeypatch: pytest.MonkeyPatch) -> None:
    if not data.is_cached("sotu"):
        pytest.skip("sotu is not here: `ihvp-bench data fetch sotu` gets it")

    def train(*_: Any) -> None:
        pytest.skip("opt-small is not trained: `ihvp-bench diagnose opt-small` trains it")

    monkeypatch.setattr(training, "progress_bar", train)
    problem = problems.load("opt-small", dtype=torch.float32, training_size=4, num_queries=1)
    assert float(problem.facts["held-out perplexity"]) < float(problem.facts["unigram perplexity"]) / 5
    # Four layers of width 128 with 512 hidden units.
    assert problem.size == 4 * (4 * (128 * 128 + 128) + 2 * 128 * 512 + 512 + 128)


@pytest.mark.slow
@pytest.mark.usefixtures("users_cache")
def test_smollm2_knows_english() -> None:
    """In sequences of 128 tokens from the middle of speeches; all tokens alike would be 10.8 nats."""
    pytest.importorskip("gguf")
    for name in ("sotu", "smollm2-135m"):
        if not data.is_cached(name):
            pytest.skip(f"{name} is not here: `ihvp-bench data fetch {name}` gets it")
    problem = problems.load(
        "smollm2-135m",
        dtype=torch.float32,
        context=128,
        training_size=2,
        num_queries=1,
        parameters=r"layers\.(10|20)\.self_attn\.v_proj",
    )
    assert 2.5 < float(problem.facts["held-out loss"]) < 4
    assert problem.size == 2 * 576 * 192
    product = problem.operator @ problem.columns()
    assert torch.isfinite(product).all()
    assert float((product * problem.columns()).sum()) > 0
