"""What the fork server imports: libraries only, so that a program's own modules see the environment it is given."""

import contextlib
import importlib

from tests.kit.hydra_once import compose_once

for name in (
    "bm25s", "datasets", "huggingface_hub", "hydra", "jinja2",
    "matplotlib.backends.backend_agg", "matplotlib.figure", "numpy", "omegaconf", "openai", "pyarrow.parquet",
    "pytrec_eval", "regex", "rich", "safetensors.torch", "scipy.stats", "tokenizers", "torch", "torch.distributed.fsdp",
    "torch.utils.checkpoint", "transformers", "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto", "Stemmer",
):  # fmt: skip
    with contextlib.suppress(ImportError):
        importlib.import_module(name)

compose_once()
