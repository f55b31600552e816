"""Worker processes that answer one question after another, and end with the process that started them."""

import ctypes
import os
import pickle
import signal
import struct
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from queue import SimpleQueue
from threading import Event, Timer
from typing import IO, Any, TypeVar

T = TypeVar("T")

#: tasks in hand for each worker: enough that none waits, few enough that memory stays bounded
_IN_HAND = 3

#: glibc settings of processes that compute: keep freed memory for the next task instead of giving it back to the system
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
# their numbers in malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_LENGTH = struct.Struct("<Q")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerError(RuntimeError):
    """A worker process ended before it answered, or the traceback of what went wrong in it."""


def ordered_map(function: Callable[..., T], tasks: Iterable[tuple[Any, ...]], workers: int) -> Generator[T, None, None]:
    """Yield ``function(*task)`` for each task, in order, computed in so many worker processes.

    The workers are new interpreters: nothing is forked, no semaphore is shared, and the user's script is not imported
    again, so that it needs no ``if __name__ == "__main__"``. They stand outside the terminal's process group: Ctrl-C
    reaches this process only, which ends them when the iterator is closed. If this process is killed, they end too, as
    their stdin does.

    The function is one that a new interpreter can import; tasks are picklable and taken lazily. An exception of the
    function is raised as it is, :class:`WorkerError` if a worker dies.
    """
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    processes: list[subprocess.Popen[bytes]] = []
    pending: deque[Future[T]] = deque()
    threads = ThreadPoolExecutor(workers, thread_name_prefix="cgcnn-ase")  # each waits for one worker's answer
    try:
        for _ in range(workers):
            processes.append(_start())
            idle.put(processes[-1])
        for task in tasks:
            pending.append(threads.submit(_ask, idle, function, task))
            if len(pending) >= _IN_HAND * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        for process in processes:
            process.kill()  # a worker holds nothing that could be lost
        threads.shutdown()
        for process in processes:
            process.communicate()


class Worker:
    """One worker process that is asked with a time limit; started when first asked, and again after it was killed.

    Like those of :func:`ordered_map`, it ends with this process.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """True if there is a process to ask; else the next question starts one."""
        return self._process is not None

    def ask(self, function: Callable[..., T], *task: Any, timeout_s: float) -> T:
        """Return ``function(*task)``, computed by the worker.

        After `timeout_s` seconds the worker and all that it has started are killed (TimeoutError). An exception of the
        function is raised as it is, :class:`WorkerError` if the worker dies.
        """
        if self._process is None:
            self._process = _start()
        idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        idle.put(self._process)
        late = Event()

        def give_up() -> None:
            late.set()
            self._kill()

        timer = Timer(timeout_s, give_up)
        timer.start()
        try:
            return _ask(idle, function, task)
        except WorkerError as error:
            self.close()
            if late.is_set():
                raise TimeoutError(f"no answer after {timeout_s:g} s") from error
            raise
        finally:
            timer.cancel()
            timer.join()
            if late.is_set():  # it may have answered just before it was killed
                self.close()

    def close(self) -> None:
        """End the worker."""
        if self._process is not None:
            self._kill()
            self._process.communicate()
            self._process = None

    def _kill(self) -> None:
        """The worker is the first of its own session: so nothing that it has started goes on."""
        process = self._process
        if process is not None and process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def serve() -> None:
    """Be a worker: answer questions from stdin on stdout until stdin ends."""
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed goes to stderr: stdout is for answers
    while (question := _receive(questions)) is not None:
        try:
            function, task = pickle.loads(question)
            answer = pickle.dumps((function(*task), None, ""))
        except Exception as error:  # raised again where the question came from
            answer = pickle.dumps((None, error, traceback.format_exc()))
        try:
            _send(answers, answer)
        except BrokenPipeError:  # nobody is there to hear it
            os._exit(1)


def _start() -> subprocess.Popen[bytes]:
    code = f"import sys; sys.path = {sys.path!r}; from cgcnn_ase.core.parallel import serve; serve()"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=KEEP_MEMORY | os.environ | {"OMP_NUM_THREADS": "1"},  # the processes share the cores
    )


def _ask(idle: "SimpleQueue[subprocess.Popen[bytes]]", function: Callable[..., T], task: tuple[Any, ...]) -> T:
    question = pickle.dumps((function, task))
    process = idle.get()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(process.stdin, question)
            answer = _receive(process.stdout)
        except BrokenPipeError:
            answer = None
        if answer is None:
            raise WorkerError(f"a worker process ended with code {process.wait()}; -9 often means out of memory")
    finally:
        idle.put(process)
    value, error, trace = pickle.loads(answer)
    if error is not None:
        raise error from WorkerError(f"in a worker process:\n{trace}")
    result: T = value
    return result


def _send(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(_LENGTH.pack(len(message)))
    pipe.write(message)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """The next message, or None at the end."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    message = pipe.read(length)
    return message if len(message) == length else None


@cache
def keep_freed_memory() -> None:
    """Set in this process what :data:`KEEP_MEMORY` says, where the C library is glibc; elsewhere do nothing.

    Tensors of some megabytes, made anew in each step, otherwise cost a page fault for each of their pages.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for number, name in ((_M_MMAP_THRESHOLD, "MALLOC_MMAP_THRESHOLD_"), (_M_TRIM_THRESHOLD, "MALLOC_TRIM_THRESHOLD_")):
        if name not in os.environ:
            mallopt(number, int(KEEP_MEMORY[name]))
