"""CUDA's streams, events and graphs for tests: work is done when somebody waits for it, other streams' as late as it may.

With ``Stream.early`` it is done as early as it may. Where the two end with different numbers, somebody does not wait.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(eq=False)
class _Capture:
    stream: Stream
    launches: list[_Work] = field(default_factory=list)


class _Work:
    """A launch, or None where there is only something to wait for. It comes after other work: its stream's, then others'."""

    def __init__(self, call: Callable[[], None] | None, after: list[_Work]) -> None:
        self.call, self.after, self.capture = call, after, Stream.capture

    def with_all_before(self) -> list[_Work]:
        """This and what it comes after, in an order that may be: other streams' work as early or as late as it may."""
        order: list[_Work] = []
        seen = {self}
        direction = -1 if Stream.early else 1
        stack = [(self, iter(self.after[::direction]))]
        while stack:
            work, rest = stack[-1]
            following = next((each for each in rest if each not in seen), None)
            if following is None:
                order.append(work)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(following.after[::direction])))
        return order

    def do(self) -> None:
        for work in self.with_all_before():
            if work.call:
                work.call()
            work.call, work.after = None, []


class Stream:
    early = False
    capture: _Capture | None = None  # what is going on, on whichever streams
    current: Stream
    null: Stream

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None
    ) -> None:
        assert null or non_blocking, "a blocking stream also waits for the null stream: there are none here"
        self.ptr = id(self)
        self._last: dict[_Capture | None, _Work] = {}  # of what it is to do, and of what it notes down for a graph
        self._outer: list[Stream] = []

    def __enter__(self) -> Stream:
        self._outer.append(Stream.current)
        Stream.current = self
        return self

    def __exit__(self, *problem: object) -> None:
        Stream.current = self._outer.pop()

    def _add(self, call: Callable[[], None] | None, *others: _Work) -> _Work:
        before = [self._last[Stream.capture]] if Stream.capture in self._last else []
        self._last[Stream.capture] = _Work(call, before + list(others))
        return self._last[Stream.capture]

    def launch(self, call: Callable[[], None]) -> None:
        """Not CuPy's: what starting a kernel on this stream comes to."""
        capture = Stream.capture
        joined = capture is None or self is capture.stream or capture in self._last
        assert joined, "a launch on a stream that has not joined the capture"
        work = self._add(call)
        if capture:
            capture.launches.append(work)

    def synchronize(self) -> None:
        refuse_while_capturing("synchronize")
        if None in self._last:
            self._last[None].do()

    def wait_event(self, event: Event) -> None:
        assert event.work is not None, "an event that was never recorded"
        assert event.work.capture is Stream.capture, "an event from outside of the capture"
        self._add(None, event.work)

    def begin_capture(self, mode: int | None = None) -> None:
        refuse_while_capturing("begin_capture")
        assert self is not Stream.null, "the null stream cannot be captured"
        Stream.capture = _Capture(self)

    def end_capture(self) -> Graph:
        capture = Stream.capture
        assert capture is not None and capture.stream is self, "no capture was begun on this stream"
        Stream.capture = None
        order = self._last[capture].with_all_before() if capture in self._last else []
        assert set(capture.launches) <= set(order), "a stream was not joined at the end of the capture"
        return Graph([work.call for work in order if work.call])


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.work: _Work | None = None

    def record(self, stream: Stream | None = None) -> None:
        self.work = (stream or Stream.current)._add(None)

    def synchronize(self) -> None:
        refuse_while_capturing("synchronize")
        assert self.work is not None, "an event that was never recorded"
        self.work.do()


class Graph:
    made: list[Graph] = []

    def __init__(self, calls: list[Callable[[], None]]) -> None:
        self.calls = calls
        Graph.made.append(self)

    def launch(self, stream: Stream | None = None) -> None:
        refuse_while_capturing("launch")
        for call in self.calls:
            (stream or Stream.current).launch(call)


def refuse_while_capturing(what: str) -> None:
    if Stream.capture is not None:
        raise RuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} while a stream captures")


Stream.null = Stream.current = Stream(null=True)
