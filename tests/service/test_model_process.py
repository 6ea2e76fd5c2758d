"""The model in a process of its own: the same scores, and an end with or before its parent."""

import asyncio
import gc
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import oracle
from program import START_SECONDS, Program, running
from reward_client import RewardClient
from reward_service import model_process, process
from reward_service.engine import Engine
from reward_service.errors import (
    DeviceFailedError,
    InferenceFailedError,
    NonFiniteScoreError,
    NotReadyError,
    StartupError,
)
from reward_service.inputs import Conversation
from reward_service.loading import LoadedModel
from reward_service.model_process import MAX_AHEAD, ModelProcess, load_in_own_process
from reward_service.model_runner import BatchReadings, ModelRunner, Reading
from reward_service.models.sequence_classifier import LabelReads
from reward_service.scheduler import Scheduler
from reward_service.sequences import SequenceGroup, TokenSequence
from reward_service.settings import Settings

MakeModel = Callable[..., Path]


def _until(condition: Callable[[], Any], *, seconds: float = START_SECONDS) -> Any:
    """The first true value."""
    give_up = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    return value


def _group(*sequences: Sequence[int]) -> SequenceGroup:
    return SequenceGroup(tuple(TokenSequence([*one], None) for one in sequences), shared_tokens=0)


def _conversation(prompt: str, *completions: str) -> Conversation:
    return Conversation([{"role": "user", "content": prompt}], completions)


# ------------------------------------------------------------------- the model, elsewhere


@pytest.fixture(scope="module")
def elsewhere(debug_folder: Path) -> Iterator[LoadedModel]:
    """The debug model in a process of its own."""
    loaded = load_in_own_process(Settings(model_id=str(debug_folder)))
    assert isinstance(loaded.runner, ModelProcess)
    yield loaded
    process = loaded.runner._process
    loaded.runner.stop()
    # Ended by itself when it was told to, not killed.
    assert process.exitcode == 0


def test_a_model_elsewhere_is_described_as_it_is_here(
    elsewhere: LoadedModel, loaded_debug: LoadedModel
) -> None:
    def described(loaded: LoadedModel) -> LoadedModel:
        return replace(loaded, runner=loaded_debug.runner, encoder=loaded_debug.encoder)

    assert described(elsewhere) == loaded_debug
    asked = [_conversation("Hi", "one", "two")]
    assert elsewhere.encoder.encode(asked, truncation="error") == loaded_debug.encoder.encode(
        asked, truncation="error"
    )


def test_it_reads_what_the_runner_here_reads(
    elsewhere: LoadedModel, loaded_debug: LoadedModel
) -> None:
    here = loaded_debug.runner
    for asked in (
        [_conversation("Hi", "one", "two"), _conversation("Bye", "three")],
        [_conversation("x" * 900, *(str(n) * n for n in range(1, 40)))],
        [],
    ):
        groups = loaded_debug.encoder.encode(asked, truncation="error")
        assert elsewhere.runner.run(elsewhere.runner.prepare(groups)) == here.run(
            here.prepare(groups)
        )


def test_thirty_two_callers_get_transformers_own_scores(
    elsewhere: LoadedModel, debug_folder: Path
) -> None:
    asked = [(f"Question {n}?", ["yes" * n, f"no {n}"]) for n in range(32)]

    async def main() -> list[list[float]]:
        engine = Engine(
            elsewhere.encoder,
            elsewhere.runner,
            Scheduler(max_batch_tokens=1_000, max_queue_tokens=100_000),
            max_concurrent_requests=100,
        )
        engine.start()
        answers = await asyncio.gather(
            *(
                engine.score([_conversation(prompt, *completions)], timeout_seconds=60)
                for prompt, completions in asked
            )
        )
        await engine.stop()
        return [
            [one.outputs[0] for one in answer.groups[0].readings if isinstance(one, Reading)]
            for answer in answers
        ]

    for scores, (prompt, completions) in zip(asyncio.run(main()), asked, strict=True):
        expected = [oracle.score(debug_folder, prompt, one) for one in completions]
        assert scores == pytest.approx(expected, abs=1e-5)


# ---------------------------------------------------------------------- one end of a pipe


class Stub:
    """A process that ended, or the thread that stands for one."""

    exitcode = -9

    def __init__(self, thread: threading.Thread | None = None) -> None:
        self._thread = thread

    def join(self, timeout: float | None = None) -> None:
        if self._thread is not None:
            self._thread.join(timeout)

    def kill(self) -> None:
        """A thread ends by itself."""


@contextmanager
def _serving(runner: Any) -> Iterator[ModelProcess]:
    """The other end of a pipe, behind which a thread computes."""
    ours, theirs = multiprocessing.Pipe()

    def serve() -> None:
        with theirs:
            model_process._serve(theirs, runner)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    served = ModelProcess(ours, Stub(thread))
    try:
        yield served
    finally:
        ours.close()
        thread.join(10)
        assert not thread.is_alive()


class FakeRunner:
    """Reads a sequence as its sum; fails as it is told to, by first token."""

    def __init__(self) -> None:
        self.prepare_failures: dict[int, Exception] = {}
        self.run_failures: dict[int, Exception] = {}
        self.prepared: list[int] = []
        self.ran: list[int] = []
        self.may_run = threading.Event()
        self.may_run.set()

    def prepare(self, groups: Sequence[SequenceGroup]) -> Sequence[SequenceGroup]:
        first = groups[0].sequences[0].token_ids[0]
        self.prepared.append(first)
        if failure := self.prepare_failures.get(first):
            raise failure
        return groups

    def run(self, groups: Sequence[SequenceGroup]) -> BatchReadings:
        first = groups[0].sequences[0].token_ids[0]
        self.ran.append(first)
        assert self.may_run.wait(START_SECONDS)
        if failure := self.run_failures.get(first):
            raise failure
        return _sums(groups)


def _sums(groups: Sequence[SequenceGroup]) -> BatchReadings:
    return BatchReadings(
        [[Reading((float(sum(one.token_ids)),), len(one)) for one in g.sequences] for g in groups],
        input_tokens=0,
        computed_tokens=0,
        padded_tokens=0,
    )


def _batch(number: int) -> list[SequenceGroup]:
    return [_group([number, 1], [number]), _group([number, 2, 3])]


def test_batches_asked_for_out_of_order_get_their_own_readings() -> None:
    with _serving(FakeRunner()) as served:
        first, second = served.prepare(_batch(10)), served.prepare(_batch(20))
        assert served.run(second) == _sums(_batch(20))
        assert served.run(first) == _sums(_batch(10))
        numbers = {number: served.prepare(_batch(number)) for number in range(5)}
        for number in (3, 0, 4, 2, 1):
            assert served.run(numbers[number]) == _sums(_batch(number))
        assert served._answers == {}


def test_the_answer_of_a_batch_that_was_given_up_reaches_nobody_and_is_forgotten() -> None:
    runner = FakeRunner()
    runner.run_failures[11] = ValueError("nobody's")
    with _serving(runner) as served:
        for number in range(0, 10 * MAX_AHEAD, 2):
            served.prepare(_batch(number + 1))
            assert served.run(served.prepare(_batch(number))) == _sums(_batch(number))
            assert len(served._answers) <= MAX_AHEAD


def test_a_batch_is_prepared_there_while_the_one_before_runs() -> None:
    runner = FakeRunner()
    runner.may_run.clear()
    with _serving(runner) as served:
        first, second = served.prepare(_batch(1)), served.prepare(_batch(2))
        _until(lambda: (runner.prepared, runner.ran) == ([1, 2], [1]))
        runner.may_run.set()
        assert served.run(first) == _sums(_batch(1))
        assert served.run(second) == _sums(_batch(2))


@pytest.mark.parametrize("where", ["prepare", "run"])
def test_what_fails_there_fails_its_own_batch_alone(where: str) -> None:
    runner = FakeRunner()
    failures = runner.prepare_failures if where == "prepare" else runner.run_failures
    failures[2] = ValueError("no second batch")
    with _serving(runner) as served:
        first, second, third = (served.prepare(_batch(number)) for number in (1, 2, 3))
        assert served.run(first) == _sums(_batch(1))
        with pytest.raises(ValueError, match="no second batch"):
            served.run(second)
        assert served.run(third) == _sums(_batch(3))
    assert runner.ran == ([1, 3] if where == "prepare" else [1, 2, 3])


class OddError(Exception):
    """Cannot be made again from its arguments, as exceptions of some libraries."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one}\n  {other}")


def test_an_exception_that_no_pipe_takes_arrives_as_its_words() -> None:
    runner = FakeRunner()
    local = type("LocalError", (Exception,), {})
    runner.run_failures = {1: OddError("one", "other"), 2: local("of a function")}
    with _serving(runner) as served:
        with pytest.raises(RuntimeError, match=r"^OddError: one other$"):
            served.run(served.prepare(_batch(1)))
        with pytest.raises(RuntimeError, match=r"^LocalError: of a function$"):
            served.run(served.prepare(_batch(2)))
        assert served.run(served.prepare(_batch(3))) == _sums(_batch(3))


def test_a_device_that_fails_there_has_failed_here() -> None:
    runner = FakeRunner()
    runner.run_failures[1] = DeviceFailedError("illegal memory access")
    with (
        _serving(runner) as served,
        pytest.raises(DeviceFailedError, match="illegal memory access"),
    ):
        served.run(served.prepare(_batch(1)))


RAISES, NAN = 260, 261
"""Token ids of the debug model that no text has."""


class PoisonedModel:
    """A sound model to which two tokens are poison."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def plain_outputs(self, token_ids: torch.Tensor, reads: LabelReads) -> torch.Tensor:
        if (token_ids == RAISES).any():
            raise ValueError("this token is poison")
        outputs: torch.Tensor = self._model.plain_outputs(token_ids, reads)
        return outputs * torch.nan if (token_ids == NAN).any() else outputs


def test_what_is_wrong_with_one_completion_comes_back_in_its_place(
    loaded_debug: LoadedModel, debug_folder: Path
) -> None:
    assert isinstance(loaded_debug.runner, ModelRunner)
    model: Any = PoisonedModel(loaded_debug.runner._model)
    path = loaded_debug.runner.path
    model.attend_by("alone")
    try:
        groups = [_group([5, 6], [5, RAISES], [5, 7]), _group([NAN, 8], [9, 10])]
        with _serving(ModelRunner(model, max_batch_tokens=100)) as served:
            read = served.run(served.prepare(groups))
    finally:
        model.attend_by(path)
    [[first, poisoned, third], [nan, last]] = read.groups
    for reading, ids in ((first, [5, 6]), (third, [5, 7]), (last, [9, 10])):
        assert isinstance(reading, Reading)
        expected = oracle.outputs_of_ids(debug_folder, ids)
        assert reading.outputs == pytest.approx(expected, abs=1e-5)
    assert isinstance(poisoned, InferenceFailedError)
    assert poisoned.message == (
        "this completion has no score: the model failed on it: this token is poison"
    )
    assert isinstance(nan, NonFiniteScoreError)
    assert "not a finite number" in nan.message


# ---------------------------------------------------------------------- one end is gone


def test_a_process_that_ended_while_idle_is_noticed_with_the_next_batch() -> None:
    ours, theirs = multiprocessing.Pipe()
    served = ModelProcess(ours, Stub())
    theirs.close()
    with pytest.raises(DeviceFailedError, match=r"the model's process ended \(exit code -9\)"):
        served.prepare(_batch(1))


def test_a_process_that_ends_while_it_computes_is_noticed_at_once() -> None:
    ours, theirs = multiprocessing.Pipe()
    served = ModelProcess(ours, Stub())
    number = served.prepare(_batch(1))
    threading.Timer(0.05, theirs.close).start()
    with pytest.raises(DeviceFailedError, match=r"the model's process ended \(exit code -9\)"):
        served.run(number)


def test_an_engine_whose_process_ended_tells_everybody_and_breaks(
    loaded_debug: LoadedModel,
) -> None:
    async def main() -> None:
        ours, theirs = multiprocessing.Pipe()
        engine = Engine(
            loaded_debug.encoder,
            ModelProcess(ours, Stub()),
            Scheduler(max_batch_tokens=100, max_queue_tokens=100_000),
            max_concurrent_requests=100,
        )
        broken = engine.start()
        callers = [
            asyncio.create_task(
                engine.score([_conversation("Hi", str(n) * 200)], timeout_seconds=60)
            )
            for n in range(5)
        ]
        await asyncio.to_thread(theirs.recv)
        theirs.close()
        for caller in callers:
            with pytest.raises(NotReadyError, match="stopped"):
                await caller
        assert not engine.is_alive
        with pytest.raises(DeviceFailedError, match="exit code -9"):
            await broken
        await engine.stop()

    asyncio.run(main())


@pytest.fixture
def main_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[Connection, Settings], None]:
    """The process's main function, fit to be called in the process of the tests."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(model_process, "configure_logging", lambda _: None)
    monkeypatch.setattr(process, "_keep_freed_memory", lambda: None)
    return model_process._main


@pytest.mark.parametrize("is_running", [False, True])
def test_a_process_whose_parent_has_gone_ends(
    monkeypatch: pytest.MonkeyPatch,
    main_here: Callable[[Connection, Settings], None],
    loaded_debug: LoadedModel,
    is_running: bool,
) -> None:
    assert isinstance(loaded_debug.runner, ModelRunner)
    running, may_end = threading.Event(), threading.Event()

    def held(_: object) -> BatchReadings:
        running.set()
        assert may_end.wait(60)
        return _sums([])

    monkeypatch.setattr(ModelRunner, "run", lambda _, batch: held(batch))
    monkeypatch.setattr(model_process, "load_model", lambda _: loaded_debug)
    ours, theirs = multiprocessing.Pipe()
    with theirs:
        thread = threading.Thread(target=main_here, args=(theirs, Settings(model_id="debug")))
        thread.start()
        assert isinstance(ours.recv(), LoadedModel)
        if is_running:
            ModelProcess(ours, Stub()).prepare(_batch(1))
            assert running.wait(60)
        ours.close()
        may_end.set()
        thread.join(10)
        assert not thread.is_alive()


# ------------------------------------------------------------------------------ starting


def test_a_sentence_that_says_why_nothing_is_loaded_arrives(
    main_here: Callable[[Connection, Settings], None], debug_folder: Path
) -> None:
    for settings, words in (
        (Settings(model_id="no-such/model"), "no-such/model"),
        (Settings(model_id=str(debug_folder), score_label="best"), "--score-label best is none of"),
        (Settings(model_id=str(debug_folder), device="abacus"), "--device abacus cannot be used"),
    ):
        ours, theirs = multiprocessing.Pipe()
        with ours, theirs:
            main_here(theirs, settings)
            error = ours.recv()
        assert type(error) is StartupError
        assert words in str(error)
        assert "\n" not in str(error)


def test_what_nobody_thought_of_while_loading_arrives_as_its_words(
    monkeypatch: pytest.MonkeyPatch,
    main_here: Callable[[Connection, Settings], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def load(_: Settings) -> LoadedModel:
        raise OddError("one", "other")

    monkeypatch.setattr(model_process, "load_model", load)
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, caplog.at_level(logging.ERROR):
        main_here(theirs, Settings(model_id="debug"))
        error = ours.recv()
    assert (type(error), str(error)) == (RuntimeError, "OddError: one other")
    assert "cannot be loaded" in caplog.text


def test_the_process_that_computes_keeps_its_freed_memory(
    monkeypatch: pytest.MonkeyPatch, main_here: Callable[[Connection, Settings], None]
) -> None:
    asked: list[bool] = []
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(process, "_keep_freed_memory", lambda: asked.append(True))
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        main_here(theirs, Settings(model_id="no-such/model"))
    assert asked


TOKENIZER = """
from transformers import PreTrainedTokenizerFast

class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def test_a_tokenizer_that_comes_with_its_own_code_is_served_too(make_model: MakeModel) -> None:
    folder = make_model()
    (folder / "own_tokenizer.py").write_text(TOKENIZER)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "OwnTokenizer"
    config["auto_map"] = {"AutoTokenizer": [None, "own_tokenizer.OwnTokenizer"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    settings = Settings(model_id=str(folder), trust_remote_code=True)
    loaded = load_in_own_process(settings)
    assert isinstance(loaded.runner, ModelProcess)
    assert loaded.encoder.encode([_conversation("Hi", "Hello")], truncation="error")
    loaded.runner.stop()


# --------------------------------------------------------------------------- the program

needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")


class ModelProgram(Program):
    """The program, and what it started."""

    @property
    def children(self) -> list[int]:
        return [int(one.name) for one in _processes() if _stat(one)[1:] == [str(self.process.pid)]]

    @property
    def model(self) -> int:
        """The process with the model."""
        return int(
            self.wait_for(
                lambda: [
                    pid
                    for pid in self.children
                    if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
                ]
            )[0]
        )

    def open_requests(self) -> int:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        [value] = [line.split()[1] for line in lines if line.startswith("reward_open_requests ")]
        return int(float(value)) - 1  # the one that asks


def _processes() -> list[Path]:
    return [one for one in Path("/proc").iterdir() if one.name.isdecimal()]


def _stat(process: Path) -> list[str]:
    """State and parent of a process; nothing where it is no more."""
    with suppress(OSError):
        return (process / "stat").read_text().rpartition(")")[2].split()[:2]
    return []


def _has_ended(pid: int) -> bool:
    # In a container, nobody may collect what its parent left.
    return _stat(Path(f"/proc/{pid}"))[:1] in ([], ["Z"])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ModelProgram]]:
    with ExitStack() as stack:
        yield lambda *flags, **environment: stack.enter_context(
            running(tmp_path / "log", *flags, kind=ModelProgram, **environment)
        )


@needs_proc
def test_a_killed_model_answers_every_caller_and_ends_the_program(
    start: Callable[..., ModelProgram],
) -> None:
    program = start("--model-id", "debug")
    program.wait_until_ready()
    url, model = program.url, program.model
    os.kill(model, signal.SIGSTOP)  # whatever it is given now, it computes until it is killed

    def ask(number: int) -> httpx.Response:
        body = {"inputs": [{"prompt": "Hi", "completions": ["x" * number]}]}
        return httpx.post(f"{url}/score", json=body, timeout=60)

    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(ask, number) for number in range(5)]
        program.wait_for(lambda: program.open_requests() >= 5)
        os.kill(model, signal.SIGKILL)
        answers = [one.result() for one in asked]
    assert [answer.status_code for answer in answers] == [503] * 5
    assert {answer.json()["error"]["code"] for answer in answers} == {"not_ready"}
    with suppress(httpx.TransportError):
        assert httpx.get(f"{url}/ready").status_code == 503
    assert program.process.wait(60) == 1
    assert program.lines[-1] == (
        "reward-service: the engine broke: the model's process ended (exit code -9)"
    )


# Asks for the date, of which only the process that loads the model has something to say.
DATED = "{% if false %}{{ strftime_now('%d') }}{% endif %}"


@needs_proc
def test_sigterm_to_the_whole_group_answers_what_is_computed_and_leaves_nothing_behind(
    start: Callable[..., ModelProgram], debug_folder: Path, tmp_path: Path
) -> None:
    template = tmp_path / "dated.jinja"
    template.write_text(DATED + (debug_folder / "chat_template.jinja").read_text())
    program = start("--model-id", debug_folder, "--chat-template", template)
    program.wait_until_ready()
    url, model, children = program.url, program.model, program.children
    asked = [(f"Question {n}?", ["yes" * n, f"no {n}"]) for n in range(32)]

    def ask(one: tuple[str, list[str]]) -> list[float]:
        with RewardClient(url, max_retries=0) as client:
            return client.score(*one)

    os.kill(model, signal.SIGSTOP)  # it computes for as long as the test likes
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = [pool.submit(ask, one) for one in asked]
        program.wait_for(lambda: program.open_requests() >= len(asked))
        os.killpg(program.process.pid, signal.SIGTERM)
        program.wait_for(lambda: any(one["event"] == "draining" for one in program.events))
        os.kill(model, signal.SIGCONT)
        for (prompt, completions), answer in zip(asked, answers, strict=True):
            expected = [oracle.score(debug_folder, prompt, one) for one in completions]
            assert answer.result() == pytest.approx(expected, abs=1e-5)
    assert program.process.wait(60) == 0
    assert model in children
    _until(lambda: all(map(_has_ended, children)), seconds=60)
    # Two processes wrote this log.
    events = [json.loads(line) for line in program.lines]
    assert all({"level", "logger", "event", "time"} <= set(event) for event in events)
    [dated] = [event for event in events if "asks for today's date" in event["event"]]
    assert (dated["level"], dated["logger"]) == ("WARNING", "reward_service.loading")


@needs_proc
def test_a_killed_program_leaves_no_model_behind(start: Callable[..., ModelProgram]) -> None:
    # Both processes, in torch's libgomp and in others', are told not to spin; each says so when it
    # is loaded.
    program = start("--model-id", "debug", OMP_DISPLAY_ENV="VERBOSE")
    program.wait_until_ready()
    children = [program.model, *program.children]
    program.process.kill()
    _until(lambda: all(map(_has_ended, children)), seconds=60)
    if sys.platform == "linux":
        log = program.log.read_text()
        assert log.count("GOMP_SPINCOUNT = '2000'") == log.count("GOMP_SPINCOUNT") >= 2


# Much longer work than the program may take to end.
SLOW_REFUSAL = (
    "{% for i in range(9999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    "{{ raise_exception('not this one') }}"
)


@needs_proc
@pytest.mark.parametrize("is_deaf", [True, False])
def test_sigterm_to_the_whole_group_while_the_model_loads_ends_it(
    start: Callable[..., ModelProgram], tmp_path: Path, is_deaf: bool
) -> None:
    template = tmp_path / "slow.jinja"
    template.write_text(SLOW_REFUSAL)
    program = start("--model-id", "debug", "--chat-template", template)
    model = program.model
    if is_deaf:
        program.wait_for(lambda: _ignores(model, signal.SIGTERM))
    os.killpg(program.process.pid, signal.SIGTERM)
    assert program.process.wait(60) == 0
    _until(lambda: _has_ended(model), seconds=60)


def _ignores(pid: int, sig: signal.Signals) -> bool:
    [mask] = [
        line.split()[1]
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("SigIgn")
    ]
    return bool(int(mask, 16) >> (sig - 1) & 1)
