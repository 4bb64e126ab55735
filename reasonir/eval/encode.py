"""`reasonir-eval encode`: a file of texts to embeddings.npy and ids.txt, resumable, over several processes."""

import os
from pathlib import Path

import numpy as np

from reasonir import distributed
from reasonir.corpora import read_documents
from reasonir.eval.config import EncodeConfig, Side, describe
from reasonir.eval.embeddings import EncodingSettings, encode_to_file
from reasonir.model.encoder import Encoder
from reasonir.runs import RunFolder
from reasonir.schema import UserError, read_jsonl

IDS_FILE, EMBEDDINGS_FILE = "ids.txt", "embeddings.npy"


def encode_file(config: EncodeConfig) -> None:
    """Encode `input`; each rank of a torchrun encodes a slice, the last one to finish joins them."""
    if config.output_dir is None:
        config.output_dir = str(Path("outputs") / describe(config))
    ids, texts = read_texts(config)
    run = RunFolder(config.output_dir, config, resume=True, ignored=("debug", "cache_dir", "chunk_tokens"))
    if run.finished:
        print(f"{run.path} is complete already ({len(ids)} texts)")
        return
    encoder = Encoder.from_pretrained(str(config.model.path), template=config.model.template.value)
    run.start()
    rank, world = distributed.rank(), distributed.world_size()
    start, stop = (len(ids) * r // world for r in (rank, rank + 1))
    settings = EncodingSettings(
        "" if config.instruction == "none" else config.instruction,
        config.max_tokens or encoder.default_max_tokens,
        "bf16" if config.precision.value == "bf16" else "fp32",
        config.dtype,
    )
    part = run.path / f"part-{rank}-of-{world}.npy"
    if not part.exists():
        truncated = encode_to_file(encoder, texts[start:stop], settings, part, part.name, config.chunk_tokens)
        print(f"{part.name}: {stop - start} texts, {truncated} cut at {settings.max_tokens} tokens")
    parts = [run.path / f"part-{r}-of-{world}.npy" for r in range(world)]
    if all(path.exists() for path in parts) and claim(run.path / ".joining"):
        join_parts(parts, run.path, ids, settings.dtype, encoder.dimension)
        (run.path / ".joining").rmdir()
        inputs = [config.input] if Path(config.input).exists() else []
        run.finish(inputs=inputs, counts={"texts": len(ids)}, model_fingerprint=encoder.fingerprint)
        print(f"{len(ids)} embeddings of dimension {encoder.dimension}: {run.path / EMBEDDINGS_FILE}")


def read_texts(config: EncodeConfig) -> tuple[list[str], list[str]]:
    """Return ids and texts of the input, in its order."""
    if config.side is Side.document:
        documents = read_documents(config.input)
        ids, texts = list(documents), list(documents.values())
    else:
        rows = [(line, row) for line, row in read_jsonl(config.input)]
        for line, row in rows:
            if not isinstance(row.get("id"), str) or not isinstance(row.get("query"), str):
                raise UserError(f"{config.input}:{line}: a query row needs strings `id` and `query`")
        ids, texts = [row["id"] for _, row in rows], [row["query"] for _, row in rows]
    broken = next((i for i in ids if "\n" in i), None)
    if broken is not None:
        raise UserError(f"{config.input}: id {broken!r} holds a line break, which ids.txt cannot")
    return ids, texts


def claim(folder: Path) -> bool:
    """Return whether this process is the one that joins the parts (a folder can be made only once)."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def join_parts(parts: list[Path], folder: Path, ids: list[str], dtype: str, dimension: int) -> None:
    """Put the parts end to end in embeddings.npy, and the ids beside it."""
    scratch = folder / ".embeddings.partial"
    output = np.lib.format.open_memmap(scratch, mode="w+", dtype=dtype, shape=(len(ids), dimension))
    row = 0
    for part in parts:
        rows = np.load(part, mmap_mode="r")
        output[row : row + len(rows)] = rows
        row += len(rows)
    output.flush()
    del output
    (folder / IDS_FILE).write_text("".join(f"{identifier}\n" for identifier in ids), encoding="utf-8")
    os.replace(scratch, folder / EMBEDDINGS_FILE)
    for part in parts:
        part.unlink()
