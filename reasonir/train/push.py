"""Uploading a finished model's folder to the hub; the only place that writes to a hub.

Invariant: the folder stays as it is, whatever the hub answers. The token comes from the environment (HF_TOKEN) or from
the machine's login, never from an option, a file of ours or a message.
"""

from pathlib import Path

from reasonir.core.errors import RunStopped


def push(folder: Path, name: str) -> None:
    """Create the repository, private, where there is none, and upload the folder in one commit.

    Args:
        name: owner/name on the hub, or on the one that HF_ENDPOINT names.
    Raises:
        RunStopped: no token, no network, no permission, or whatever else keeps the upload from its end.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        hub = HfApi()
        hub.create_repo(name, private=True, exist_ok=True)
        done = hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Model trained with reasonir")
    except Exception as error:  # of the hub, of the network, of the disk; the library raises many kinds
        said = " ".join(str(error).split()) or type(error).__name__
        raise RunStopped(
            f"push_to_hub={name}: the upload failed, the model is kept in {folder}: {said}; "
            "resume=true with the same options tries again"
        ) from error
    print(f"pushed {folder} to {name}: {done.oid}")
