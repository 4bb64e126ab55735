"""The bi-encoder: `from reasonir.model import Encoder`."""

from reasonir.model.encoder import Encoder

__all__ = ["Encoder"]
