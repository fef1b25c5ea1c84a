"""The page on other libraries, from rows written here."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reports.conclusions import Conclusion
from reports.peers import build_peers
from reports.peers_figure import BLACK, colours, profile_figure, seconds_figure
from reports.peers_rows import by_library, contenders, judge, name_of, races, solves
from reports.peers_verdicts import conclusions, findings
from solvers.peers.library import Library

TARGETS = (0.01, 0.0001)
PYDVL, CURVLINOPS = "pyDVL", "curvlinops-for-pytorch"
NAN = math.nan
Rows = list[dict[str, Any]]

COMMON: dict[str, Any] = {
    "problem": "tiny", "seed": 0, "dimension": 8, "num_examples": 20, "num_columns": 2, "damping": 0.5,
    "facts": "{}", "failure": "", "script": "", "title": "", "documented": "", "source": "", "expected": "",
    "got": "", "missing": "", "differs": NAN, "goal": "", "settings": "", "status": "finished", "reason": "",
    "said": "", "error": 1e-5, "residual": 1e-6, "promised": NAN, "setup_seconds": 0.25, "solve_seconds": 1.0,
    "work": 30.0, "peak_memory_bytes": 0.0, "version": "1.0",
}  # fmt: skip


def rows_of(
    solver: str, library: str = "ihvp-bench", *seconds: float, works: tuple[float, ...] = (), **values: Any
) -> Rows:
    """A solve's rows: seconds to each of TARGETS, NaN where it does not get there, and the work likewise."""
    kind = "ours" if library == "ihvp-bench" else "default"
    known = COMMON | {"library": library, "solver": solver, "kind": kind, "settings": solver} | values
    seconds, works = seconds or (NAN, NAN), works or tuple(10 * each for each in seconds or (NAN, NAN))
    return [
        known | {"target": target, "seconds_to_target": second, "work_to_target": work}
        for target, second, work in zip(TARGETS, seconds, works, strict=True)
    ]


def reproduction(script: str = "pydvl_tolerance", **values: Any) -> Rows:
    """A script's row, as the study writes it: without any solve."""
    told = {
        "library": PYDVL, "kind": "reproductions", "solver": "reproductions", "settings": "", "status": "",
        "script": script, "title": "CG ends early", "documented": "It ends at rtol.",
        "source": "expected = 1", "expected": "1e-06", "got": "0.02", "differs": True,
    }  # fmt: skip
    solve = ("error", "residual", "promised", "setup_seconds", "solve_seconds", "work", "peak_memory_bytes")
    absent = dict.fromkeys((*solve, "target", "seconds_to_target", "work_to_target"), NAN)
    return [COMMON | absent | told | values]


def frame(*groups: Rows) -> pd.DataFrame:
    return pd.DataFrame([row for group in groups for row in group])


def race_of(*groups: Rows) -> pd.DataFrame:
    return races(contenders(solves(frame(*groups))))


def judged(**values: Any) -> tuple[str, bool]:
    (row, _) = rows_of("cg", values.pop("library", PYDVL), **values)
    return judge(pd.DataFrame([row]))


ROWS = frame(
    rows_of("auto:target={target}", "ihvp-bench", 3.0, NAN, settings="auto(target=0.01)", goal="0.01"),
    rows_of("auto:target={target}", "ihvp-bench", 5.0, 5.0, settings="auto(target=0.0001)", goal="0.0001"),
    rows_of("cg", "ihvp-bench", 2.0, 4.0, status="converged", promised=1e-5),
    rows_of("pydvl_cg", PYDVL, 9.0, 9.0),
    rows_of("pydvl_cg", PYDVL, 7.0, NAN, kind="tuned", settings="pydvl_cg(atol=0.0418290)", goal="0.01"),
    rows_of("curvlinops_cg", CURVLINOPS, 8.0, NAN, said="it did not converge"),
    reproduction(),
)


class TestRows:
    def test_a_solver_contends_with_the_best_of_its_settings_for_each_target(self) -> None:
        table = contenders(solves(ROWS)).set_index(["target", "name"])
        assert table["seconds"].to_dict() == pytest.approx(
            {
                (0.01, "auto"): 3.0, (0.0001, "auto"): 5.0, (0.01, "cg"): 2.0, (0.0001, "cg"): 4.0,
                (0.01, "pydvl_cg"): 7.0, (0.0001, "pydvl_cg"): 9.0, (0.01, "curvlinops_cg"): 8.0,
                (0.0001, "curvlinops_cg"): NAN,
            },
            nan_ok=True,
        )  # fmt: skip
        assert table.loc[(0.01, "pydvl_cg"), "settings"] == "pydvl_cg(atol=0.0418290)"
        assert table.loc[(0.0001, "pydvl_cg"), "settings"] == "pydvl_cg"

    def test_a_skipped_solver_does_not_contend(self) -> None:
        rows = frame(
            rows_of("cg", "ihvp-bench", 1.0, 1.0), rows_of("x", PYDVL, status="skipped", reason="no")
        )
        assert list(contenders(solves(rows))["name"].unique()) == ["cg"]

    @pytest.mark.parametrize(
        ("asked", "name"),
        [
            ("cg", "cg"),
            ("cg:preconditioner=ekfac", "cg:preconditioner=ekfac"),
            ("auto:target={target}", "auto"),
            ("lissa:target={target},preconditioner=ekfac", "lissa:preconditioner=ekfac"),
            ("lissa:preconditioner=ekfac,target={target}", "lissa:preconditioner=ekfac"),
        ],
    )
    def test_a_solvers_name_is_the_same_for_all_targets(self, asked: str, name: str) -> None:
        assert name_of(asked) == name

    def test_seconds_are_medians_over_seeds_that_all_got_there(self) -> None:
        seeds = [rows_of("cg", "ihvp-bench", at, 2 * at, seed=at, error=at / 100) for at in (1.0, 2.0, 9.0)]
        (one,) = solves(frame(*seeds)).to_dict("records")
        assert one["to"] == {0.01: (2.0, 20.0), 0.0001: (4.0, 40.0)}
        assert one["error"] == 0.09
        late = rows_of("cg", "ihvp-bench", 3.0, NAN, seed=4)
        (one,) = solves(frame(*seeds, late)).to_dict("records")
        assert one["to"][0.01] == (2.5, 25.0)
        assert math.isnan(one["to"][0.0001][0])

    def test_how_it_ended_is_told_of_the_seed_that_ended_worst(self) -> None:
        rows = frame(
            rows_of("pydvl_lissa", PYDVL, 1.0, 1.0),
            rows_of(
                "pydvl_lissa", PYDVL, seed=1, status="diverged", reason="too long", said="NaN", error=NAN
            ),
        )
        (one,) = solves(rows).to_dict("records")
        assert (one["status"], one["reason"], one["said"]) == ("diverged", "too long", "NaN")
        assert math.isnan(one["error"])
        assert (one["wrong"], one["silent"]) == ("worse than nothing", False)

    def test_a_race_is_between_the_best_of_ours_and_the_best_of_all_others(self) -> None:
        first, second = race_of(*[[row] for row in ROWS.to_dict("records")]).to_dict("records")
        assert (first["ours"], first["seconds"], first["target"]) == ("cg", 2.0, 0.01)
        assert (first["their_settings"], first["their_library"]) == ("pydvl_cg(atol=0.0418290)", PYDVL)
        assert (first["their_seconds"], first["ratio"]) == (7.0, 3.5)
        assert (second["their_settings"], second["ratio"]) == ("pydvl_cg", 2.25)

    def test_the_work_is_that_of_the_fastest(self) -> None:
        first, _ = race_of(
            rows_of("cg", "ihvp-bench", 2.0, 2.0, works=(50.0, 50.0)),
            rows_of("exact", "ihvp-bench", 3.0, 3.0, works=(1.0, 1.0)),
            rows_of("pydvl_cg", PYDVL, 1.0, 1.0, works=(25.0, 25.0)),
        ).to_dict("records")
        assert (first["ratio"], first["work_ratio"]) == (0.5, 0.5)

    def test_who_never_gets_there_takes_for_ever(self) -> None:
        there, away = rows_of("cg", "ihvp-bench", 1.0, NAN), rows_of("pydvl_cg", PYDVL, NAN, 1.0)
        first, second = race_of(there, away).to_dict("records")
        assert (first["ratio"], first["work_ratio"], first["their_settings"]) == (math.inf, math.inf, "")
        assert (second["ratio"], second["work_ratio"], second["ours"]) == (0.0, 0.0, "")
        nobody = race_of(rows_of("cg"), rows_of("pydvl_cg", PYDVL))
        assert nobody["ratio"].isna().all()

    def test_libraries_are_compared_by_their_best_solver_on_each_problem(self) -> None:
        table = contenders(
            solves(
                frame(
                    rows_of("cg", "ihvp-bench", 2.0, NAN),
                    rows_of("exact", "ihvp-bench", 6.0, 6.0),
                    rows_of("pydvl_cg", PYDVL, 1.0, NAN),
                    rows_of("cg", "ihvp-bench", NAN, NAN, problem="other"),
                    rows_of("curvlinops_cg", CURVLINOPS, 5.0, NAN, problem="other"),
                )
            )
        )
        ratios = by_library(table)
        assert ratios.loc[("tiny", 0.01)].to_dict() == {"ihvp-bench": 2.0, PYDVL: 1.0, CURVLINOPS: math.inf}
        assert ratios.loc[("tiny", 0.0001)].to_dict() == {
            "ihvp-bench": 1.0, PYDVL: math.inf, CURVLINOPS: math.inf,
        }  # fmt: skip
        assert ratios.loc[("other", 0.01), CURVLINOPS] == 1.0
        assert (ratios.loc[("other", 0.0001)] == math.inf).all()


class TestJudge:
    def test_an_answer_that_is_better_than_nothing_and_promised_nothing_is_not_wrong(self) -> None:
        assert judged(error=0.9, residual=5.0) == ("", False)

    def test_a_promise_is_broken_by_twice_its_residual(self) -> None:
        assert judged(promised=1e-3, residual=1.9e-3) == ("", False)
        assert judged(promised=1e-3, residual=2.1e-3) == ("promise broken", True)

    @pytest.mark.parametrize("error", [1.001, math.inf, NAN])
    def test_worse_than_nothing(self, error: float) -> None:
        assert judged(error=error) == ("worse than nothing", True)

    def test_another_library_says_so_by_a_word(self) -> None:
        assert judged(error=2.0, said="no convergence") == ("worse than nothing", False)
        # That our driver has called it diverged is no word of the library's.
        assert judged(error=2.0, status="diverged", reason="too long") == ("worse than nothing", True)

    @pytest.mark.parametrize("status", ["failed", "breakdown", "skipped"])
    def test_what_gave_no_answer_gave_no_wrong_one(self, status: str) -> None:
        assert judged(error=NAN, residual=NAN, status=status, reason="no") == ("", False)

    def test_ours_say_so_by_their_status(self) -> None:
        assert judged(library="ihvp-bench", error=2.0) == ("worse than nothing", True)
        assert judged(library="ihvp-bench", error=2.0, said="beware") == ("worse than nothing", True)
        assert judged(library="ihvp-bench", error=2.0, status="diverged") == ("worse than nothing", False)
        assert judged(
            library="ihvp-bench", status="converged", promised=1e-6, residual=1e-3
        ) == ("promise broken", True)  # fmt: skip

    def test_what_ran_out_of_time_is_not_wrong(self) -> None:
        stopped: dict[str, Any] = {"status": "budget_spent", "error": 3.0, "residual": 9.0}
        asked = {
            "promised": 1e-6,
            "reason": "max_seconds = 5 reached at residual 9.0e+00, above the tolerance",
        }
        assert judged(**stopped, **asked) == ("", False)
        gone = {"error": NAN, "residual": NAN, "reason": "it did not come back within 10 s"}
        assert judged(**stopped | gone) == ("", False)

    def test_what_ended_by_itself_short_of_its_promise_broke_it(self) -> None:
        ended = {"status": "budget_spent", "reason": "it ended by itself after 1 step, at residual 9"}
        assert judged(promised=1e-6, residual=0.5, **ended) == ("promise broken", True)
        assert judged(promised=1e-6, residual=0.5, library="ihvp-bench", **ended) == ("promise broken", False)

    def test_one_seed_that_is_wrong_and_silent_is_enough(self) -> None:
        seeds = [
            rows_of("x", PYDVL, error=error, said=said)[0] for error, said in [(2, ""), (0.1, ""), (2, "oh")]
        ]
        assert judge(pd.DataFrame(seeds[1:])) == ("worse than nothing", False)
        assert judge(pd.DataFrame(seeds)) == ("worse than nothing", True)


def verdicts(*groups: Rows) -> list[Conclusion]:
    return conclusions(frame(*groups))


class TestVerdicts:
    def test_faster_is_a_median_over_problems_to_the_first_target(self) -> None:
        def problems(*ratios: float) -> list[Rows]:
            return [
                rows
                for place, ratio in enumerate(ratios)
                for rows in (
                    rows_of("cg", "ihvp-bench", 1.0, 1.0, problem=f"p{place}"),
                    rows_of("pydvl_cg", PYDVL, ratio, 2.0, problem=f"p{place}"),
                )
            ]

        fast, never, _ = verdicts(*problems(2.0, 3.0, 40.0))
        assert (fast.verdict, never.verdict) == ("holds", "holds")
        assert fast.claim.startswith(
            "Our best solver reaches 1 % at least 3 times as fast as the best of the"
        )
        assert fast.numbers == "median 3.0 ×: p0 2.0 ×; p1 3.0 ×; p2 40 ×"
        assert never.numbers == "least 2.0 ×"
        assert {fast.source, never.source} == {"ours"}
        fast, never, _ = verdicts(*problems(2.0, 2.9, 0.04))
        assert (fast.verdict, never.verdict) == ("fails", "fails")
        assert never.numbers == "slower on p2 to 1 % (0.04 ×)"

    def test_where_one_of_both_never_gets_there(self) -> None:
        fast, never, _ = verdicts(rows_of("cg", "ihvp-bench", 1.0, 1.0), rows_of("pydvl_cg", PYDVL))
        assert (fast.verdict, fast.numbers) == ("holds", "median ∞ ×: tiny ∞ ×")
        fast, never, _ = verdicts(rows_of("cg"), rows_of("pydvl_cg", PYDVL, 1.0, 1.0))
        assert (fast.verdict, never.verdict) == ("fails", "fails")
        assert never.numbers == "slower on tiny to 1 % (0.0 ×) and tiny to 0.01 % (0.0 ×)"

    def test_where_nobody_gets_there_nothing_is_decided(self) -> None:
        fast, never, honest = verdicts(rows_of("cg"), rows_of("pydvl_cg", PYDVL))
        assert [fast.verdict, never.verdict, honest.verdict] == ["undecided", "undecided", "holds"]
        assert fast.numbers == never.numbers == "nobody gets there"
        # To the second target alone.
        fast, never, _ = verdicts(rows_of("cg", "ihvp-bench", NAN, 1.0), rows_of("x", PYDVL, NAN, 2.0))
        assert (fast.verdict, never.verdict, never.numbers) == ("undecided", "holds", "least 2.0 ×")

    def test_our_own_honesty(self) -> None:
        said = rows_of("cg", "ihvp-bench", error=2.0, status="diverged")
        unsaid = rows_of("ekfac", "ihvp-bench", error=2.0)
        well = rows_of("exact", "ihvp-bench", 1.0, 1.0)
        theirs = rows_of("pydvl_cg", PYDVL, error=9.0)
        *_, honest = verdicts(said, well, theirs)
        assert honest.verdict == "holds"
        assert honest.numbers == "1 of 2 answers are worse than nothing or break a promise, 0 of them unsaid"
        *_, honest = verdicts(said, unsaid, well)
        assert honest.verdict == "fails"
        assert honest.numbers == "2 of 3 answers are worse than nothing or break a promise, 1 of them unsaid"

    def test_without_ours_there_is_nothing_to_claim(self) -> None:
        assert verdicts(rows_of("pydvl_cg", PYDVL, 1.0, 1.0)) == []
        assert verdicts(rows_of("exact", "ihvp-bench", status="skipped", reason="too large")) == []


class TestFindings:
    def test_one_problem(self) -> None:
        told = findings(ROWS)
        assert list(told) == [
            "To a relative error of 1 %", "To a relative error of 0.01 %", "Status",
            "Where a library differs from its documentation",
        ]  # fmt: skip
        assert told["To a relative error of 1 %"] == (
            "The best other library takes 3.5 × as long as ours, for 3.5 × the work."
        )
        assert told["Status"] == "No answer was worse than x = 0, and none broke a promise."

    def test_several_problems(self) -> None:
        told = findings(
            frame(
                rows_of("cg", "ihvp-bench", 1.0, 1.0, problem="a"),
                rows_of("pydvl_cg", PYDVL, 0.5, NAN, problem="a"),
                rows_of("cg", "ihvp-bench", 1.0, NAN, problem="b"),
                rows_of("pydvl_cg", PYDVL, 4.0, 1.0, problem="b"),
                rows_of("cg", "ihvp-bench", NAN, NAN, problem="c"),
                rows_of("pydvl_cg", PYDVL, NAN, NAN, problem="c"),
                rows_of("cg", "ihvp-bench", 1.0, NAN, problem="d"),
            )
        )
        assert told["To a relative error of 1 %"] == (
            "The best other library takes from 0.5 × (a) to 4.0 × (b) as long as ours, in the median over "
            "problems 4.0 ×. In the median it does 2.2 × the work, and takes 1.0 × the seconds for the same "
            "work. On d no other library gets there. On c nobody gets there."
        )
        assert told["To a relative error of 0.01 %"] == (
            "On a no other library gets there. On b none of ours gets there. On c and d nobody gets there."
        )

    def test_who_was_wrong_and_who_ran_out_of_time(self) -> None:
        told = findings(
            frame(
                rows_of("lissa", "ihvp-bench", status="budget_spent", reason="max_seconds = 5 reached"),
                rows_of("scipy_cg", "scipy", promised=1e-6, residual=1e-3),
                rows_of("scipy_lsmr", "scipy", error=2.0, said="istop 7"),
                rows_of("pydvl_lissa", PYDVL, status="budget_spent", error=NAN, residual=NAN),
                rows_of("pydvl_ekfac", PYDVL, error=2.0),
                rows_of("pydvl_cg", PYDVL, 1.0, 1.0),
                rows_of("pydvl_other", PYDVL, status="skipped", reason="not here"),
                rows_of("curvlinops_cg", CURVLINOPS, 1.0, 1.0),
            )
        )["Status"]
        assert told == (
            "ihvp-bench: of 1 solves 1 ran out of time. "
            "scipy: of 2 solves 1 ended worse than x = 0 and 1 with a residual above the promised one, 1 of "
            "these without a word. "
            "pyDVL: of 3 solves 1 ended worse than x = 0, 1 of these without a word; 1 ran out of time."
        )

    def test_libraries_that_are_not_there_are_named_once(self) -> None:
        # In the words of the adapters themselves.
        reason = Library("no_such_module", "no-such-library", ">=1").missing()
        old = Library("pytest", "pytest", ">=99").missing()
        assert reason is not None
        assert old is not None
        told = findings(
            frame(
                rows_of("cg", "ihvp-bench", 1.0, 1.0),
                rows_of("a", "no-such-library", status="skipped", reason=reason),
                rows_of("b", "no-such-library", status="skipped", reason=reason),
                rows_of("c", "pytest", status="skipped", reason=old),
                rows_of("d", PYDVL, status="skipped", reason="H is the hessian"),
            )
        )["Left out"]
        assert told == f"{reason}. {old}."
        assert "Left out" not in findings(ROWS)

    def test_reproductions_are_counted_once_for_all_problems(self) -> None:
        heading = "Where a library differs from its documentation"
        rows = [
            reproduction("a"), reproduction("b", differs=False), reproduction("c", library=CURVLINOPS),
            reproduction("d", missing="not installed", differs=False), reproduction("e"),
        ]  # fmt: skip
        rows += [reproduction("a", problem="other")]
        told = findings(frame(rows_of("cg"), *rows))[heading]
        assert told == (
            "3 of 4 scripts show one (pyDVL 2 and curvlinops-for-pytorch 1): see “Reproductions”."
        )
        alike = findings(frame(rows_of("cg"), reproduction(differs=False)))[heading]
        assert alike == "None of 1 scripts shows a difference any more."
        assert heading not in findings(frame(rows_of("cg"), reproduction(missing="not installed")))


class Texts(HTMLParser):
    """The cells of each row of each table, and every address that the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.scripts = 0
        self.inside = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data.replace("\n", "").replace("\u00a0", " ")


def page_of(rows: pd.DataFrame, folder: Path) -> tuple[str, Texts]:
    text = build_peers(rows, {"experiment": {"title": "Peers"}}, folder / "page").read_text("utf-8")
    found = Texts()
    found.feed(text)
    return text, found


class TestPage:
    def test_its_tables_hold_the_numbers(self, tmp_path: Path) -> None:
        _, page = page_of(ROWS, tmp_path)
        tables = [[cell.strip() for cell in row] for row in page.rows]
        assert [
            "tiny", "1 %", "cg", "2 s", "pydvl_cg(atol=0.0418) pyDVL", "7 s", "3.5 ×", "3.5 ×"
        ] in tables  # fmt: skip
        assert ["0.01 %", "cg", "4 s", "pydvl_cg pyDVL", "9 s", "2.2 ×", "2.2 ×"] in tables
        assert [
            "cg ihvp-bench", "ours", "1.0e-5", "converged", "250 ms", "1 s", "30", "< 1 MiB", "2 s", "1.0 ×",
            "4 s", "1.0 ×",
        ] in tables  # fmt: skip
        assert [
            "pydvl_cg(atol=0.0418) pyDVL", "tuned, 1 %", "1.0e-5", "finished", "250 ms", "1 s", "30",
            "< 1 MiB", "7 s", "3.5 ×", "–", "",
        ] in tables  # fmt: skip
        assert ["it did not converge"] in tables
        kept = json.loads((tmp_path / "page" / "conclusions.json").read_text("utf-8"))
        assert [each["verdict"] for each in kept] == ["holds", "holds", "holds"]
        assert (tmp_path / "page" / "rows.csv").read_text("utf-8").count("0.0418290") == 2

    def test_the_fastest_comes_first(self, tmp_path: Path) -> None:
        _, page = page_of(ROWS, tmp_path)
        names = [row[0].split()[0] for row in page.rows if len(row) == 12]
        assert names == [
            "cg", "auto(target=0.01)", "auto(target=0.0001)", "pydvl_cg(atol=0.0418)", "curvlinops_cg",
            "pydvl_cg",
        ]  # fmt: skip

    def test_settings_and_memory_are_told_as_far_as_they_say_something(self, tmp_path: Path) -> None:
        shown = {
            ("x(tolerance=0.00174966)", 2**20 - 1.0): ("x(tolerance=0.00175)", "< 1 MiB"),
            ("x(eps=1e-36, rank=123456)", -9.0): ("x(eps=1e-36, rank=123456)", "< 1 MiB"),
            ("x(scale=3.30562, kind=type-2)", 1.6e9): ("x(scale=3.31, kind=type-2)", "1,526 MiB"),
            ("x(tolerance=5.68407e-05)", NAN): ("x(tolerance=5.68e-5)", "–"),
            ("x2.5y(rtol=0.0)", 2.0**20): ("x2.5y(rtol=0)", "1 MiB"),
        }
        rows = [
            rows_of("x", PYDVL, 1.0, 1.0, settings=settings, peak_memory_bytes=size)
            for settings, size in shown
        ]
        _, page = page_of(frame(*rows), tmp_path)
        found = [(row[0].removesuffix(f" {PYDVL}"), row[7]) for row in page.rows if len(row) == 12]
        assert found == list(shown.values())

    def test_how_each_ended_is_told_beside_it(self, tmp_path: Path) -> None:
        text, page = page_of(
            frame(
                rows_of("cg", "ihvp-bench", 1.0, 1.0),
                rows_of("a", PYDVL, error=2.0),
                rows_of("b", PYDVL, error=2.0, said="beware"),
                rows_of("c", PYDVL, error=NAN, status="failed", reason=f"ValueError: {'no ' * 500}"),
                rows_of("d", PYDVL, error=NAN, status="budget_spent", reason="it did not come back"),
                rows_of("e", PYDVL, status="skipped", reason="H is the hessian"),
                rows_of("f", PYDVL, status="skipped", reason="H is the hessian"),
                rows_of("g", PYDVL, status="skipped", reason="no layers"),
            ),
            tmp_path,
        )
        ended = {row[0].split()[0]: row[3] for row in page.rows if len(row) == 12}
        assert ended == {
            "cg": "finished", "a": "finishedworse than nothing, unsaid",
            "b": "finishedworse than nothing, said", "c": "failed", "d": "budget_spent",
        }  # fmt: skip
        notes = [row[0] for row in page.rows if len(row) == 1]
        assert [notes[0], notes[2]] == ["beware", "it did not come back"]
        assert notes[1].startswith("ValueError: no no")
        assert len(notes[1]) <= 400
        assert "Not run: e, f (H is the hessian); g (no layers)." in text

    def test_several_problems_each_have_their_own(self, tmp_path: Path) -> None:
        other = rows_of("curvlinops_cg", CURVLINOPS, 6.0, NAN, problem="other", damping=0.125)
        ours = rows_of("cg", "ihvp-bench", 3.0, 3.0, problem="other", damping=0.125)
        rows = pd.concat([ROWS, frame(other, ours)])
        text, _ = page_of(rows, tmp_path)
        assert text.count('class="facts"') == 2
        assert "0.125" in text
        seconds, profile = seconds_figure(rows), profile_figure(rows)
        assert [ax.get_title(loc="left") for ax in seconds.axes] == ["tiny", "other"]
        assert [ax.get_title(loc="left") for ax in profile.axes] == ["to 1 %", "to 0.01 %"]

    def test_libraries_that_are_not_there_alone(self, tmp_path: Path) -> None:
        rows = frame(
            rows_of("pydvl_cg", PYDVL, status="skipped", reason="pyDVL is not installed", version="")
        )
        text, page = page_of(rows, tmp_path)
        assert page.rows == []
        assert "Not run: pydvl_cg (pyDVL is not installed)." in text
        assert json.loads((tmp_path / "page" / "conclusions.json").read_text("utf-8")) == []

    def test_reproductions_alone(self, tmp_path: Path) -> None:
        text, _ = page_of(frame(reproduction()), tmp_path)
        assert "expected 1e-06, got 0.02" in text

    def test_cells_that_failed_are_told_beside_the_others(self, tmp_path: Path) -> None:
        failed = {"problem": "tiny", "seed": 0, "failure": "MemoryError: too much", "traceback": "at line 1"}
        text, _ = page_of(pd.concat([ROWS, pd.DataFrame([failed])]), tmp_path)
        assert "1 cells failed" in text
        assert "MemoryError: too much" in text
        assert "pydvl_cg(" in text

    def test_nothing_was_measured(self, tmp_path: Path) -> None:
        rows = pd.DataFrame(
            [{"problem": "tiny", "failure": "ValueError: no", "traceback": "", "solver": "cg"}]
        )
        assert "Nothing was measured" in page_of(rows, tmp_path)[0]

    def test_nobody_got_anywhere(self, tmp_path: Path) -> None:
        text, _ = page_of(frame(rows_of("cg"), rows_of("pydvl_cg", PYDVL)), tmp_path)
        assert "On tiny nobody gets there." in text

    def test_each_reproduction_once_with_its_script(self, tmp_path: Path) -> None:
        rows = frame(
            rows_of("cg"),
            reproduction("a"),
            reproduction("a", problem="other"),
            reproduction("b", title="Its rows", differs=False, got="1e-06"),
            reproduction("c", title="Its columns", missing="pyDVL is not installed", differs=False),
        )
        text, _ = page_of(rows, tmp_path)
        section = text.partition('<section id="reproductions">')[2].partition("</section>")[0]
        assert section.count("<details>") == 3
        assert section.count("expected 1e-06, got 0.02") == 1
        assert section.count("as documented") == 1
        assert section.count("not run: pyDVL is not installed") == 1
        assert section.count("It ends at rtol.") == 3

    def test_what_others_wrote_is_text_and_the_page_needs_nothing_else(self, tmp_path: Path) -> None:
        evil = "<script>alert(1)</script>"
        source = f'expected = "{evil}"\nif 1 < 2 and 3 > 2:\n    got = 1'
        rows = frame(
            rows_of("cg", "ihvp-bench", 1.0, 1.0),
            rows_of("x", PYDVL, 2.0, 2.0, said=evil, settings=f"x({evil})"),
            rows_of("y", PYDVL, status="skipped", reason=evil),
            reproduction(source=source, title=evil, documented=evil, expected=evil, got=evil),
        )
        text, page = page_of(rows, tmp_path)
        assert page.scripts == 0
        assert "&lt;script&gt;alert(1)" in text
        assert "if 1 &lt; 2 and 3 &gt; 2:\n    got = 1" in text
        assert page.addresses
        assert all(each.startswith(("data:", "#")) for each in page.addresses)

    def test_versions_are_those_that_ran(self, tmp_path: Path) -> None:
        rows = frame(
            rows_of("cg", "ihvp-bench", 1.0, 1.0, version=""), rows_of("x", PYDVL, 1.0, 1.0, version="0.10.0")
        )
        assert "<b>Versions.</b> pyDVL 0.10.0." in page_of(rows, tmp_path)[0]


class TestFigures:
    def test_ours_are_black_and_a_library_has_one_colour_in_both(self) -> None:
        seconds, profile = seconds_figure(ROWS), profile_figure(ROWS)
        labels = {each.get_text(): each.get_color() for each in seconds.axes[0].get_yticklabels()}
        assert list(labels) == ["auto", "cg", "pydvl_cg", "curvlinops_cg"]
        assert labels["auto"] == labels["cg"] == BLACK
        legend = dict(
            zip(
                [each.get_text() for each in profile.legends[0].get_texts()],
                [each.get_color() for each in profile.legends[0].get_lines()],
                strict=True,
            )
        )
        assert legend == {
            "ihvp-bench": BLACK, PYDVL: labels["pydvl_cg"], CURVLINOPS: labels["curvlinops_cg"],
        }  # fmt: skip
        assert len(set(legend.values())) == 3
        assert colours(["ihvp-bench"]) == {"ihvp-bench": BLACK}

    def test_a_point_for_each_target_that_is_reached(self) -> None:
        (ax,) = seconds_figure(ROWS).axes
        assert sorted(float(line.get_xdata()[0]) for line in ax.lines) == [2, 3, 4, 5, 7, 8, 9]

    def test_the_profile_is_the_share_of_problems_within_each_ratio(self) -> None:
        rows = frame(
            rows_of("cg", "ihvp-bench", 1.0, 1.0, problem="a"),
            rows_of("pydvl_cg", PYDVL, 4.0, NAN, problem="a"),
            rows_of("cg", "ihvp-bench", 2.0, 1.0, problem="b"),
            rows_of("pydvl_cg", PYDVL, 1.0, 200.0, problem="b"),
        )
        first, second = profile_figure(rows).axes
        ours, theirs = first.lines
        assert list(zip(*ours.get_data(), strict=True)) == [(1, 0.5), (2, 1), (100, 1)]
        assert list(zip(*theirs.get_data(), strict=True)) == [(1, 0.5), (4, 1), (100, 1)]
        # To the second it is 200 times as long, and never there.
        assert list(second.lines[1].get_ydata()) == [0, 0]
