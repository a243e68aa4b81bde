"""Which engines are expected, and when: those that say that they start, and the one that Serve will start.

Requests wait for an engine that comes, and are refused where none does. An engine says once that it starts,
and then nothing until it is ready.
"""

from __future__ import annotations

from app.flow.controller import FlowController
from app.flow.estimate import RunningMean
from app.flow.ticket import Action

# Starts differ by what is in the machine's caches: the last few count.
START_SMOOTHING = 0.3
# A start that has taken this long has failed.
MAX_START_S = 3600.0
# The engine that Serve is about to start, for an application that wakes or has lost its last one, or began
# before this scheduler was told of anything: nobody has said its name yet.
UNNAMED = "unnamed"


class EngineStarts:
    """Tells the core of engines on their way. `now_s` is its time, `clock_s` one that nobody sets.

    `wakes`: the application sleeps when nobody asks it. `start_s`: how long an engine takes to start, until
    one has.
    """

    def __init__(self, flow: FlowController, start_s: float, *, wakes: bool) -> None:
        self._flow = flow
        self._wakes = wakes
        self._start_s = RunningMean(start_s, START_SMOOTHING)
        # When each began.
        self._began_s: dict[str, float] = {}
        # That have reported.
        self._known: set[str] = set()
        # An engine was there or tried to start, and none has been waited for since. An application that never
        # sleeps always has one, whether this scheduler has heard of it or not.
        self._served = not wakes
        # Serve has said that one is starting, maybe beside others.
        self._found = False

    @property
    def start_s(self) -> float:
        """How long a start takes."""
        return self._start_s.value

    @property
    def unplaced(self) -> int:
        """Engines that are expected and hold nothing of the cluster yet."""
        return int(self._flow.expects(UNNAMED))

    def began(self, replica_id: str, now_s: float, clock_s: float) -> list[Action]:
        """This one says that it starts."""
        self._began_s = {id_: at_s for id_, at_s in self._began_s.items() if clock_s - at_s < MAX_START_S}
        self._began_s[replica_id] = clock_s
        self._flow.capacity_starting(replica_id, now_s + self.start_s, now_s)
        return self._named(now_s)

    def reports(self, replica_id: str, now_s: float, clock_s: float) -> list[Action]:
        """This one is there."""
        began_s = self._began_s.pop(replica_id, None)
        if began_s is not None:
            self._start_s.add(clock_s - began_s)
        if replica_id in self._known:
            return []
        self._known.add(replica_id)
        # When the core is not young any more, those that were there before it have all reported.
        return self._named(now_s) if self._found and not self._flow.young(now_s) else []

    def ready(self, now_s: float) -> list[Action]:
        """Some engine takes requests: the successor that was expected, or the silent one itself."""
        self._served = True
        return [] if self._found else self._named(now_s)

    def gone(self, replica_id: str, now_s: float, *, waited_for: bool) -> None:
        """This one has died, is about to stop or has failed to start, which Serve tries again."""
        self._known.discard(replica_id)
        if self._began_s.pop(replica_id, None) is not None:
            self._served = True
        self.follow(now_s, gone=replica_id, waited_for=waited_for)

    def follow(self, now_s: float, gone: str = "", *, waited_for: bool) -> None:
        """Serve puts another engine in the place of the last one: `gone`, or one that is silent. It takes a
        while until that says so itself; it is expected once, and only if somebody needs it where the
        application may sleep."""
        if self._served and self._flow.asleep(now_s, without=gone):
            self._served = False
            if waited_for or not self._wakes:
                self._expect(now_s)

    def asked(self, now_s: float) -> None:
        """Who asks an application that sleeps waits for the engine that this brings about."""
        if self._wakes and self._flow.asleep(now_s):
            self._expect(now_s)

    def found(self, now_s: float) -> None:
        """Serve says that one is starting: whoever was told so may have been another scheduler."""
        if not self._flow.snapshot(now_s).replicas_starting:
            self._found = True
            self._expect(now_s)

    def _expect(self, now_s: float) -> None:
        self._flow.capacity_starting(UNNAMED, now_s + self.start_s, now_s)

    def _named(self, now_s: float) -> list[Action]:
        """The one without a name has one now."""
        self._found = False
        return self._flow.replica_gone(UNNAMED, now_s)
