"""A stand-in for a language model: OpenAI's chat API on this machine, answered by rules about the built-in world.

    python scripts/tiny_server.py ADDRESS_FILE

No model runs and nothing is downloaded: `scripts/reproduce.sh scale=tiny` drives the whole chain with it. It writes its
address into the file and serves until it is ended, or until whoever started it is gone. GET /stats: what was asked.
"""

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tiny_answers import Unanswerable, answer

MODEL = "rules-not-a-model"
"""What every answer says that it comes from."""
PARENT_SECONDS = 0.5
counts: Counter[str] = Counter()


class Chat(BaseHTTPRequestHandler):
    """POST /v1/chat/completions and GET /stats; connections are kept."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer one chat request; what no rule covers is refused, with the reason."""
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        counts["requests"] += 1
        try:
            body = json.loads(raw)
            self._send(200, completion(body, answer(body)))
        except (Unanswerable, ValueError, KeyError, TypeError) as error:
            counts["refused"] += 1
            self._send(400, {"error": {"message": f"{MODEL}: {error}", "type": "invalid_request_error"}})

    def do_GET(self) -> None:
        """Tell how many requests came and how many were refused."""
        self._send(200, {"model": MODEL, **counts})

    def _send(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)  # at once: in two pieces the second waits for the client's receipt

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of single requests."""


def completion(body: dict[str, Any], text: str) -> dict[str, Any]:
    """Return a chat completion in OpenAI's form; tokens are counted as words."""
    read, written = sum(len(str(m["content"]).split()) for m in body["messages"]), len(text.split())
    return {
        "id": "chatcmpl-rules",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


def end_with_parent(server: ThreadingHTTPServer) -> None:
    """Stop serving when the process that started this one is gone, however it ended."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    server.shutdown()


def main() -> None:
    """Serve on a free port."""
    if len(sys.argv) != 2:
        print("usage: python scripts/tiny_server.py ADDRESS_FILE", file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    server.daemon_threads = True
    threading.Thread(target=end_with_parent, args=(server,), daemon=True).start()
    address, partial = Path(sys.argv[1]), Path(f"{sys.argv[1]}.partial")
    partial.write_text(f"http://127.0.0.1:{server.server_address[1]}/v1\n")
    partial.replace(address)
    server.serve_forever()


if __name__ == "__main__":
    main()
