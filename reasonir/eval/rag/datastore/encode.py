"""`reasonir-eval encode`: a file of texts to embeddings.npy and ids.txt, resumable, over several processes."""

from dataclasses import replace
from pathlib import Path

from reasonir.core.files import MANIFEST_FILE, read_jsonl, write_text
from reasonir.core.processes import rank
from reasonir.core.run_folder import RunFolder
from reasonir.core.stamp import checksums, read_stamp, unchanged
from reasonir.data.collections import read_documents, read_query_texts
from reasonir.eval.benchmarks.config import MAY_DIFFER
from reasonir.model.encoder import Encoder
from reasonir.retrieval.arithmetic import encoding_precision
from reasonir.retrieval.config import EncodeConfig, Side
from reasonir.retrieval.embeddings import encoding_key
from reasonir.retrieval.encoded_folder import EMBEDDINGS_FILE, IDS_FILE
from reasonir.retrieval.sharding import EncodingSettings, ShardedEncoding, own_device


def encode_file(config: EncodeConfig) -> None:
    """Encode `input`; the ranks of a torchrun share its blocks out (in `cache_dir`) and rank 0 joins them.

    Blocks carry the key of ids, texts, model and settings in their folder's name: what an interrupted run left is
    used only where it would come out the same.
    """
    name = f"encode-{config.input.rstrip('/').rsplit('/', 1)[-1]}-{config.side.value}"
    folder = config.output_dir or str(Path("outputs") / name)
    config = replace(config, output_dir=folder)
    # 1 the texts, before a model is loaded for a file that cannot be read
    ids, texts = read_texts(config.input, config.side)
    leads = rank() == 0
    run = RunFolder(folder, config, resume=True, ignored=MAY_DIFFER) if leads else None
    # 2 the model and what the rows depend on
    encoder = Encoder.from_pretrained(str(config.model.path), template=config.model.template.value, device=own_device())
    cache_dir = Path(config.cache_dir).expanduser()
    precision, notice = encoding_precision(config.precision.value, encoder, cache_dir)
    settings = EncodingSettings(
        "" if config.instruction == "none" else config.instruction,
        config.max_tokens or encoder.default_max_tokens,
        precision,
        config.dtype,
    )
    # An instruction that leaves no room for a text is refused before anything is written.
    encoder.template.encode([(settings.instruction, "x")], settings.max_tokens)
    # The ids count too: the same texts under other ids make another ids.txt.
    key = encoding_key(encoder, [*ids, *texts], settings)
    # Every rank decides alike: rank 0 removes the manifest only where its key is another.
    if _stored_key(Path(folder)) == key:
        if leads:
            print(f"{folder} is complete already ({len(ids)} texts)")
        return
    # 3 the blocks of all ranks, then one array
    notice.say()
    blocks = cache_dir / "blocks" / key
    sharded = ShardedEncoding(encoder, texts, settings, blocks, "texts", config.chunk_tokens)
    if run is None:
        sharded.encode_share()
        return
    run.start()
    sharded.encode_share()
    write_text(run.path / IDS_FILE, "".join(f"{identifier}\n" for identifier in ids))
    truncated, checksum = sharded.join(run.path / EMBEDDINGS_FILE)
    counts = {"texts": len(ids), "truncated_texts": truncated}
    inputs = [config.input] if Path(config.input).exists() else []
    run.finish(inputs=inputs, counts=counts, key=key, sha256=checksum, model_fingerprint=encoder.fingerprint,
               outputs=checksums(run.path, [IDS_FILE]))  # fmt: skip
    # After the manifest: a kill before it joins the blocks again and encodes nothing twice.
    sharded.discard_blocks()
    print(f"{len(ids)} texts encoded, {truncated} cut at {settings.max_tokens} tokens")
    print(f"{len(ids)} embeddings of dimension {encoder.dimension}: {run.path / EMBEDDINGS_FILE}")


def _stored_key(folder: Path) -> str | None:
    """Return the key of the finished array in a folder; None where there is none, or one that was damaged since."""
    stamp = read_stamp(folder / MANIFEST_FILE)
    if stamp is None or not unchanged(folder, {EMBEDDINGS_FILE: str(stamp.get("sha256")), **stamp.get("outputs", {})}):
        return None
    return stamp.get("key")


def read_texts(source: str, side: Side) -> tuple[list[str], list[str]]:
    """Return ids and texts of a corpus or of a file of queries, in its order."""
    if side is Side.document:
        documents = read_documents(source)
        ids, texts = list(documents), list(documents.values())
    else:
        queries = read_query_texts(read_jsonl(source), source)
        ids, texts = list(queries), list(queries.values())
    return ids, texts
