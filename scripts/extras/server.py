"""The client talks to a server on this machine that answers as vLLM does."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from glm4v_core import Glm4v, Message, Request

ANSWER = ("The total ", "is 42.")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._send("application/json", json.dumps({"data": [{"id": "GLM-4.6V-Flash", "object": "model"}]}))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        choices = [{"delta": {"content": text}, "finish_reason": None} for text in ANSWER]
        choices.append({"delta": {}, "finish_reason": "stop"})
        lines = [json.dumps({"id": "1", "choices": [{"index": 0, **choice}]}) for choice in choices]
        self._send("text/event-stream", "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]))

    def _send(self, kind: str, body: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
with Glm4v.load(None, "server", base_url=f"http://127.0.0.1:{server.server_port}/v1", api="vllm") as model:
    assert model.generate(Request((Message.user("What is the total?"),))).text == "".join(ANSWER)
server.shutdown()
server.server_close()
