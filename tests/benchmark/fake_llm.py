"""A stand-in for a chat endpoint such as text-generation-inference's or OpenAI's, over HTTP.

What it says is a function of the messages and the seed, so that a run of the same questions gets
the same answers; and it can be told to misbehave, for one question or for all.
"""

import json
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Any

Messages = Sequence[Mapping[str, str]]
Answering = Callable[[Messages, int | None], str | None]
"""Messages and seed → the text, or `None` for an answer without one."""


def hashed_answer(messages: Messages, seed: int | None) -> str:
    """Another text for other messages or another seed."""
    said = json.dumps([list(map(dict, messages)), seed]).encode()
    return f"answer {zlib.crc32(said):08x}"


@dataclass(frozen=True)
class Reply:
    """A whole HTTP answer, sent as it is."""

    status: int
    body: str | bytes
    headers: Mapping[str, str] | None = None
    missing_bytes: int = 0
    """Bytes by which the announced length exceeds what is sent before the connection closes."""
    seconds: float = 0.0
    """Before anything is sent."""
    seconds_a_byte: float = 0.0


TOO_MANY = Reply(429, '{"error": "slow down"}', {"retry-after": "0.01"})
BROKEN = Reply(500, "Internal Server Error")
REFUSED = Reply(
    422, '{"error": "inputs must have less than 10 tokens", "error_type": "validation"}'
)
TRUNCATED = Reply(200, '{"choices": [{"mess', missing_bytes=500)
HTML = Reply(200, "<html><body>Welcome to the proxy</body></html>", {"content-type": "text/html"})
OTHER_SHAPE = Reply(200, '{"generated_text": "the protocol of another route"}')
NO_CHOICES = Reply(200, '{"choices": [], "usage": null}')
SLOW = Reply(200, "{}", seconds=60)
"""Slower than any deadline that a test sets; the end of the server ends it."""
TRICKLING = Reply(200, "{" + " " * 60, seconds_a_byte=0.05)
"""Never silent for long, but slower than that deadline as a whole."""


def openai_refusal(message: str, param: str, code: str) -> Reply:
    """What OpenAI answers to a request of which it does not take a setting."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Reply(400, json.dumps({"error": error}))


COUNTED = object()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # the backlog of the socket, which five of many clients would fill


class FakeLLM:
    """Speaks `POST /v1/chat/completions`."""

    def __init__(self, answering: Answering = hashed_answer) -> None:
        self.answering = answering
        self.model = "org/chat"
        """The only model that it serves."""
        self.api_key: str | None = None
        """Which key it asks for, if any."""
        self.reasoning = False
        """Take no other settings than OpenAI's reasoning models do."""
        self.finish_reason = "stop"
        self.usage: Any = COUNTED
        """What it says of the tokens, in place of the number of words."""
        self.requests: list[Mapping[str, Any]] = []
        """Bodies of all requests, in order of arrival."""
        self.headers: list[Mapping[str, str]] = []
        """Headers of all requests, their names in lower case."""
        self.asked: Counter[str] = Counter()
        """How often each last message was asked about."""
        self.seconds = 0.0
        """What an answer takes."""
        self.most_active = 0
        """Requests that were answered side by side."""
        self.down = False
        """Close every connection without an answer."""
        self.always: Reply | None = None
        """In place of every answer."""
        self._scripts: defaultdict[str, list[Reply]] = defaultdict(list)
        self._for_good: dict[str, Reply] = {}
        self._active = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def misbehave(self, question: str, *replies: Reply) -> None:
        """Give these replies, one a request, to a last message before it is answered."""
        self._scripts[question] += replies

    def never_answer(self, question: str, reply: Reply) -> None:
        """Give this reply to a last message for good."""
        self._for_good[question] = reply

    def obey(self, question: str) -> None:
        """Answer that last message from now on."""
        self._scripts.pop(question, None)
        self._for_good.pop(question, None)

    def reply(self, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """The answer to a POST."""
        request = json.loads(body)
        question = request["messages"][-1]["content"]
        with self._lock:
            self.requests.append(request)
            self.headers.append(headers)
            self.asked[question] += 1
            script = self._scripts[question]
            scripted = script.pop(0) if script else self._for_good.get(question)
            self._active += 1
            self.most_active = max(self.most_active, self._active)
        time.sleep(self.seconds)
        with self._lock:
            self._active -= 1
        if reply := self.always or scripted:
            return reply
        if path.partition("?")[0] != "/v1/chat/completions":
            return Reply(404, f"no route {path}")
        if self.api_key and headers.get("authorization") != f"Bearer {self.api_key}":
            return Reply(401, f"wrong key: {headers.get('authorization')}")
        if request["model"] != self.model:
            return Reply(404, json.dumps({"error": {"message": "the model does not exist"}}))
        if self.reasoning and "max_tokens" in request:
            return openai_refusal(
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead.",
                "max_tokens",
                "unsupported_parameter",
            )
        if self.reasoning and request.get("temperature", 1) != 1:
            return openai_refusal(
                "Unsupported value: 'temperature' does not support "
                f"{request['temperature']} with this model. Only the default (1) value is "
                "supported.",
                "temperature",
                "unsupported_value",
            )
        return Reply(200, json.dumps(self._completion(request)))

    def _completion(self, request: Mapping[str, Any]) -> dict[str, Any]:
        text = self.answering(request["messages"], request.get("seed"))
        message = {"role": "assistant", "content": text}
        completion: dict[str, Any] = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish_reason}],
        }
        if self.usage is not COUNTED:
            completion["usage"] = self.usage
        else:
            asked = sum(len(one["content"].split()) for one in request["messages"])
            said = len((text or "").split())
            completion["usage"] = {
                "prompt_tokens": asked,
                "completion_tokens": said,
                "total_tokens": asked + said,
            }
        return completion

    @staticmethod
    def send(file: BufferedIOBase, content: bytes, seconds_a_byte: float) -> None:
        """Write a body, at once or byte by byte."""
        if not seconds_a_byte:
            file.write(content)
            return
        for byte in content:
            time.sleep(seconds_a_byte)
            file.write(bytes([byte]))

    @contextmanager
    def serve(self, port: int = 0) -> Iterator[str]:
        """The endpoint over HTTP; its root's address is yielded."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                reply = fake.reply(self.path, headers, body)
                if fake.down:
                    self.close_connection = True
                    return
                fake._stopping.wait(reply.seconds)
                content = reply.body.encode() if isinstance(reply.body, str) else reply.body
                self.send_response(reply.status)
                for name, value in (reply.headers or {}).items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content) + reply.missing_bytes))
                self.end_headers()
                fake.send(self.wfile, content, reply.seconds_a_byte)
                self.close_connection = reply.missing_bytes > 0

            def handle(self) -> None:
                with suppress(ConnectionError):  # a client may be killed, or lose patience
                    super().handle()

            def log_message(self, *_: Any) -> None:
                pass

        self._stopping.clear()
        server = _Server(("127.0.0.1", port), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            fake._stopping.set()
            server.shutdown()
            thread.join()
            server.server_close()
