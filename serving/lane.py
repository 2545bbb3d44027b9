"""How the requests for one version become runs: gathered by tick, run inline or in a thread, answered."""

from __future__ import annotations

import asyncio
import logging
import threading
from time import monotonic_ns

from serving import errors
from serving.errors import Cancelled, Expired, Failed, Overloaded, TurnoutError, Unavailable
from serving.layout import Layout
from serving.ledger import Cause, Ledger, Reason
from serving.model import ModelSpec
from serving.refusals import Refusals
from serving.session import Stop
from serving.tick import Tick
from serving.track import LONG_S, Batch, Pipeline, Runs, Tap, Track
from serving.waiting import NEVER_NS, Waiting, grouped, rows_of
from serving.wire import InferRequest, Recent, Results

log = logging.getLogger("turnout.lane")

TICK_NS_MAX = 5_000_000
"""How long one flush may keep the loop; what is left runs in the next tick, after the sockets."""
SLOW_RUNS_MAX = 8
"""How many inline runs in a row may take far too long before the version gets a thread."""

SLOW_FACTOR, JOINED_SLOW_FACTOR = 4, 16
"""What is far too long, in longest inline runs; a joined run may be a full batch, which was let take 8."""


class Lane:
    """One version's queue and runs. Everything but `session.run` happens on the event loop.

    Parameters
    ----------
    loop, tick : the event loop that owns it, and what gathers its requests
    spec, session, ledger, pipeline : what runs, where it is counted, and who says when if not the queue
    waiting : Waiting
    inline_ns_max : int
        Longest run that may execute on the loop; 0 for a version that always has threads.
    threads : int
        How many runs may be under way at once where they have threads.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tick: Tick,
        spec: ModelSpec,
        session: Runs,
        ledger: Ledger | None,
        waiting: Waiting,
        inline_ns_max: int,
        threads: int = 1,
        pipeline: Pipeline | None = None,
    ) -> None:
        self._loop = loop
        self._tick = tick
        self._spec = spec
        self._model, self._version = spec.artifact.model, str(spec.artifact.version)
        self._session, self._pipeline = session, pipeline
        self._gather = Layout.feeds if pipeline is None else pipeline.gather
        self._turns = waiting if pipeline is None else pipeline.turns(waiting)
        self._ledger = ledger
        self.waiting = waiting
        self._inline_ns_max = inline_ns_max
        self._slow_runs = 0
        self.arrived: list[InferRequest] = []
        """The requests of this tick."""
        self.taps: list[Tap] = []
        """Who is shown each batch that was answered."""
        self._tap_broke = False
        self._inline_track = Track(max(LONG_S, JOINED_SLOW_FACTOR * inline_ns_max / 1e9))
        self._threads_max = threads
        self._tracks: list[Track] = []
        self._idle: list[Track] = []
        self._wake: asyncio.TimerHandle | None = None
        self._wake_ns = NEVER_NS
        self._closed = False
        self._refusals = Refusals(loop, lambda request, full: self._reject(request, full, Cause.QUEUE_FULL))
        self._recent: Recent | None = None
        self._recently: tuple[tuple[tuple[int, ...], ...], bool] = ((), False)

    def __len__(self) -> int:
        running = sum(len(track.batch.requests) for track in self._tracks if track.batch is not None)
        return len(self.arrived) + self.waiting.count + running

    @property
    def inline(self) -> bool:
        """Whether runs execute on the event loop."""
        return self._inline_ns_max > 0

    def twin(self) -> Lane:
        """Return a lane of the same version for requests that are not to share runs with these."""
        shared = self._loop, self._tick, self._spec, self._session, self._ledger, self.waiting.twin()
        made = Lane(*shared, self._inline_ns_max, self._threads_max, self._pipeline)
        made.taps = self.taps
        return made

    def submit(self, request: InferRequest) -> None:
        """Take a request whose layout is bound; its reply is called from the loop, never from here."""
        if not self.arrived:
            self._tick.join(self)
        self.arrived.append(request)

    def flush(self) -> None:
        """Run or queue what arrived in this tick."""
        arrived, self.arrived = self.arrived, []
        if self._closed:
            for request in arrived:
                error = Unavailable("this version is being unloaded; try again")
                self._reject(request, error, Cause.UNAVAILABLE)
        elif not self._inline_ns_max or not self.waiting.immediate or self.waiting.count:
            self._queue(arrived)
        elif len(arrived) == 1:
            self._run_inline(Batch(arrived, arrived[0].layout.rows, monotonic_ns()))
        elif arrived:  # Of those that waited for this tick all clients may have gone.
            self._run_tick(arrived)

    def _queue(self, arrived: list[InferRequest]) -> None:
        """Let a tick's requests wait their turn."""
        for request in arrived:
            try:
                self._offer(request)
            except Overloaded as full:
                self._refusals.refuse(request, full)
        self.pump()

    def _offer(self, request: InferRequest) -> None:
        """Queue a request; where there is no room, in the place of one whose client is gone."""
        try:
            self.waiting.offer(request)
        except Overloaded:
            gone = self.waiting.purge() if self._refusals.is_time_to_look() else []
            for each in gone:
                self._give_up(each)
            if not gone:
                raise
            self.waiting.offer(request)

    def _run_tick(self, arrived: list[InferRequest]) -> None:
        """Run a tick's requests on the loop, those that fit each other together."""
        now_ns = monotonic_ns()
        first = arrived[0].layout
        rows = first.rows * len(arrived)
        if 0 < rows <= self.waiting.rows_max and all([request.layout is first for request in arrived]):
            self._run_inline(Batch(arrived, rows, now_ns))
            return
        until_ns = now_ns + TICK_NS_MAX
        groups = grouped(arrived, self.waiting.rows_max)
        for position, group in enumerate(groups):
            if now_ns >= until_ns:
                if not self.arrived:
                    self._tick.join(self)
                self.arrived[:0] = [each for later in groups[position:] for each in later if not each.dropped]
                return
            batch = Batch(group, rows_of(group), now_ns)
            self._run_inline(batch)
            now_ns = batch.answered_ns or batch.ended_ns

    def _run_inline(self, batch: Batch) -> None:
        track = self._inline_track
        track.batch = batch
        self._run(track, batch)
        track.batch = None
        if not (again := batch.too_long and batch.unfinished):
            self._finish(batch)
        factor = SLOW_FACTOR if len(batch.requests) == 1 else JOINED_SLOW_FACTOR
        if 0 < factor * self._inline_ns_max < batch.ended_ns - batch.started_ns:
            self._slow_runs += SLOW_RUNS_MAX if batch.too_long else 1
            if self._slow_runs >= SLOW_RUNS_MAX:
                run_us = (batch.ended_ns - batch.started_ns) // 1000
                log.warning("version=%s event=moved_to_thread run_us=%d", self._spec, run_us)
                self._inline_ns_max = 0
        else:
            self._slow_runs = 0
        if again:  # In a thread: with larger inputs than those that were measured it may well take so long.
            self._queue(batch.requests)

    def _run(self, track: Track, batch: Batch) -> None:
        """Execute a batch, and if it fails as a whole, each of its requests alone: only one may be at fault.

        On the loop, or in a track's thread.
        """
        self._execute(track, batch)
        if len(batch.requests) > 1 and batch.broke(self._spec):
            for part in batch.split():
                self._execute(track, part)

    def _execute(self, track: Track, batch: Batch) -> None:
        if track.stop.used:
            track.stop = Stop()
        try:
            feeds = batch.feeds = self._gather(batch.requests[0].layout, batch.requests, batch.rows)
            batch.started_ns = monotonic_ns()
            try:
                batch.outputs = self._session.run(feeds, track.stop)
            except Expired:
                # The watchdog may have meant the run before this one; then nobody here is late.
                if batch.over(monotonic_ns()) or (track.batch or batch).too_long:
                    raise
                track.stop = Stop()
                batch.outputs = self._session.run(feeds, track.stop)
        except TurnoutError as error:
            batch.error = errors.bare(error)
        except Exception as error:  # A fault of ours must not leave callers waiting for ever.
            log.exception("version=%s event=run_broke", self._spec)
            batch.error = Failed(f"the run broke off: {type(error).__name__}")
        batch.ended_ns = monotonic_ns()

    def pump(self) -> None:
        """Start what can start now, let expire what waited too long, and look again when it is time."""
        now_ns = monotonic_ns()
        for request in self.waiting.expire(now_ns):
            self._give_up(request)
        while self.waiting.count:
            if self._inline_ns_max:
                requests = self.waiting.take(now_ns)
                if not requests:
                    break
                self._run_inline(Batch(requests, rows_of(requests), now_ns))
                now_ns = monotonic_ns()
                continue
            track = self._free_track()
            if track is None:
                break
            requests = self._turns.take(now_ns)
            if not requests:
                self._idle.append(track)
                break
            batch = Batch(requests, rows_of(requests), now_ns)
            track.batch = batch
            track.jobs.put(batch)
        self._arm(now_ns)

    def _free_track(self) -> Track | None:
        if self._idle:
            return self._idle.pop()
        if len(self._tracks) >= self._threads_max:
            return None
        track = Track()
        self._tracks.append(track)
        name = f"turnout-run-{self._spec}"
        threading.Thread(target=self._work, args=(track,), name=name, daemon=True).start()
        return track

    def _work(self, track: Track) -> None:
        """Run what the loop hands over. The body of a track's thread."""
        while (batch := track.jobs.get()) is not None:
            self._run(track, batch)
            self._loop.call_soon_threadsafe(self._done, track, batch)
            del batch  # Its tensors are not to wait here for the next one.

    def _done(self, track: Track, batch: Batch) -> None:
        track.batch = None
        self._idle.append(track)
        # The thread gets its next batch before this one's answers are written.
        if not self._closed:
            self.pump()
        try:
            self._finish(batch)
        finally:
            if self._pipeline is not None:
                self._pipeline.release(batch)

    def _finish(self, batch: Batch) -> None:
        """Answer the requests of a batch that ran."""
        if batch.parts:
            self._finish_parts(batch)
            return
        if batch.error is None and (misfit := batch.misfit(self._spec)):
            batch.let_alone(misfit, promised=self._spec.config.rows_max is not None)
        if batch.error is not None:
            for request in batch.requests:
                if not request.dropped:
                    self._fail(request, batch.error, Reason.BACKEND)
            batch.answered_ns = monotonic_ns()
            return
        assert batch.outputs is not None
        results = Results(self._model, self._version, self._spec.outputs, batch.outputs, batch.rows)
        alike = (results.tails, batch.rows > 0)
        if alike == self._recently:
            results.recent = self._recent
        if self.taps:
            batch.requests[0].looked_at = True  # Those of more requests were joined, hence copied.
        at = 0
        for request in batch.requests:
            stop = at + request.layout.rows
            if not request.dropped:
                try:
                    request.reply.answer(request, results, at, stop)
                except TurnoutError as error:
                    self._fail(request, error, Reason.BACKEND)
            at = stop
        self._recent, self._recently = results.recent, alike
        batch.answered_ns = monotonic_ns()
        arrivals = [request.arrived_ns for request in batch.requests if not request.dropped]
        batch.arrivals = arrivals
        if len(arrivals) < len(batch.requests):
            batch.answered = [request for request in batch.requests if not request.dropped]
        if self._ledger is not None and arrivals:
            self._ledger.batch(
                arrivals, batch.taken_ns, batch.started_ns, batch.ended_ns, batch.answered_ns, batch.rows or 1
            )
        for tap in self.taps:
            try:
                tap(batch)
            except Exception:  # Whoever asked has the answer; what goes wrong here is nothing to them.
                if not self._tap_broke:
                    self._tap_broke = True
                    log.exception("version=%s event=tap_broke", self._spec)

    def _finish_parts(self, batch: Batch) -> None:
        """Answer the requests of a batch that had to be run one by one."""
        if batch.error is None and self._spec.config.rows_max is None:
            # Whether to join them was ours to decide, and was decided wrongly.
            log.warning(
                "version=%s event=batching_stopped reason='its rows cannot be told apart'", self._spec
            )
            self.waiting.rows_max = 1
        for part in batch.parts:
            self._finish(part)
            batch.answered_ns = part.answered_ns

    def _give_up(self, request: InferRequest) -> None:
        """End a request that waited too long, or whose client left."""
        if request.dropped:
            self._fail(request, Cancelled("the client is gone"), Reason.CANCELED)
        else:
            self._reject(request, Expired("the request's deadline passed while it waited"), Cause.TIMEOUT)

    def _reject(self, request: InferRequest, error: TurnoutError, cause: Cause) -> None:
        """Tell a request that it will not run."""
        request.dropped = True
        if self._ledger is not None:
            self._ledger.reject(cause, monotonic_ns() - request.arrived_ns)
        if request.page is not None:
            request.page.end(error, request.slot)
        request.reply.fail(request, error)

    def _fail(self, request: InferRequest, error: TurnoutError, reason: Reason) -> None:
        """Tell a request that it ran, or was to run, in vain."""
        request.dropped = True
        if self._ledger is not None:
            self._ledger.fail(reason, monotonic_ns() - request.arrived_ns)
        if request.page is not None:
            request.page.end(error, request.slot)
        request.reply.fail(request, error)

    def _arm(self, now_ns: int) -> None:
        free = bool(self._inline_ns_max or self._idle or len(self._tracks) < self._threads_max)
        at_ns = self._turns.wake_ns(now_ns, free=free)
        if at_ns == self._wake_ns and self._wake is not None:
            return
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        self._wake_ns = at_ns
        if at_ns < NEVER_NS:
            delay_s = max(at_ns - now_ns, 0) / 1e9
            self._wake = self._loop.call_later(delay_s, self._look_again)

    def _look_again(self) -> None:
        self._wake = None
        self._wake_ns = NEVER_NS
        self.pump()

    def watch(self, now_ns: int, run_s_max: float) -> str:
        """Stop runs that nobody waits for or that take too long; say which is stuck. The watchdog asks."""
        running = [track for track in (self._inline_track, *self._tracks) if track.batch is not None]
        stuck_s = max([track.watch(now_ns, run_s_max) for track in running], default=0.0)
        return f"version={self._spec} event=run_stuck run_s={stuck_s:.1f}" if stuck_s else ""

    def expire_running(self, now_ns: int) -> None:
        """Tell those whose deadline passed during a run; the run goes on for the others of its batch."""
        for track in self._tracks:
            for request in track.batch.requests if track.batch is not None else ():
                if not request.dropped and request.expires_ns and now_ns >= request.expires_ns:
                    self._fail(request, Expired("the model did not finish in time"), Reason.BACKEND)

    async def close(self) -> None:
        """Refuse what comes, finish what is under way, and end the threads."""
        while len(self):
            await asyncio.sleep(0.005)
        self._closed = True
        self._refusals.close()
        if self._wake is not None:
            self._wake.cancel()
        for track in self._tracks:
            track.jobs.put(None)
        self._pipeline, self._gather, self._turns = None, Layout.feeds, self.waiting
        del self._session  # Its memory goes back even while somebody still holds this lane.
