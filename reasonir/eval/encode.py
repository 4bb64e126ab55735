"""`reasonir-eval encode`: a file of texts to embeddings.npy and ids.txt, resumable, over several processes."""

import fcntl
import json
import os
from pathlib import Path

import numpy as np

from reasonir import distributed
from reasonir.corpora import read_documents
from reasonir.eval.config import MAY_DIFFER, EncodeConfig, Side, describe
from reasonir.eval.embeddings import EncodingSettings, encode_to_file, encoding_key, encoding_precision
from reasonir.model.encoder import Encoder
from reasonir.runs import MANIFEST_FILE, RunFolder
from reasonir.schema import UserError, read_jsonl

IDS_FILE, EMBEDDINGS_FILE = "ids.txt", "embeddings.npy"


def encode_file(config: EncodeConfig) -> None:
    """Encode `input`; each rank of a torchrun encodes a slice, and the last one to finish joins them.

    Parts carry the key of texts, model and settings in their name: what an interrupted run left is used only where
    it would come out the same.
    """
    if config.output_dir is None:
        config.output_dir = str(Path("outputs") / describe(config))
    ids, texts = read_texts(config)
    run = RunFolder(config.output_dir, config, resume=True, ignored=MAY_DIFFER)
    encoder = Encoder.from_pretrained(str(config.model.path), template=config.model.template.value)
    settings = EncodingSettings(
        "" if config.instruction == "none" else config.instruction,
        config.max_tokens or encoder.default_max_tokens,
        encoding_precision(config.precision.value, encoder),
        config.dtype,
    )
    encoder.template.encode([(settings.instruction, "x")], settings.max_tokens)
    key = encoding_key(encoder, [*ids, *texts], settings)
    if stored_key(run.path) == key:
        print(f"{run.path} is complete already ({len(ids)} texts)")
        return
    rank, world = distributed.rank(), distributed.world_size()
    if rank == 0:
        run.start()
    run.path.mkdir(parents=True, exist_ok=True)
    start, stop = (len(ids) * r // world for r in (rank, rank + 1))
    parts = [run.path / f"part-{key[:12]}-{r}-of-{world}.npy" for r in range(world)]
    if not parts[rank].exists():
        truncated = encode_to_file(encoder, texts[start:stop], settings, parts[rank], "texts", config.chunk_tokens)
        print(f"{stop - start} texts encoded, {truncated} cut at {settings.max_tokens} tokens")
    with (run.path / ".joining").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system releases it when a process dies
        if stored_key(run.path) != key and all(part.exists() for part in parts):
            join_parts(parts, run.path, ids, settings.dtype, encoder.dimension)
            inputs = [config.input] if Path(config.input).exists() else []
            run.finish(inputs=inputs, counts={"texts": len(ids)}, key=key, model_fingerprint=encoder.fingerprint)
            print(f"{len(ids)} embeddings of dimension {encoder.dimension}: {run.path / EMBEDDINGS_FILE}")
        if stored_key(run.path) == key:
            for leftover in (*run.path.glob("part-*"), run.path / ".joining"):
                leftover.unlink(missing_ok=True)


def stored_key(folder: Path) -> str | None:
    """Return the key of the finished array in a folder; None where there is none."""
    manifest = folder / MANIFEST_FILE
    if not manifest.is_file() or not (folder / EMBEDDINGS_FILE).is_file():
        return None
    return json.loads(manifest.read_text(encoding="utf-8")).get("key")


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
