"""A write is spared its proof only where the server surely has what it acknowledged."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from aiodurable.checkpoints.history import History, Mark
from aiodurable.postgres.direct import Origin


class Server:
    """Keeps commits in order; a standby begins with some of them, a crash undoes the newest."""

    def __init__(self, name: str, commits: list[int]) -> None:
        self.name = name
        self.commits = commits


class Link:
    def __init__(self, server: Server, since: float) -> None:
        self.server = server
        self.origin = Origin(server.name, since)


class Failovers(RuleBasedStateMachine):
    """Two connections, and servers of which one may go on although another one was promoted."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.count = 0
        self.servers = [Server("0", [])]
        self.history = History()
        self.links = [self._connected(self.servers[0]) for _ in range(2)]

    def _tick(self) -> float:
        self.now += 1
        return self.now

    def _connected(self, server: Server) -> Link:
        return Link(server, self._tick())

    @rule(link=st.integers(0, 1))
    def write(self, link: int) -> None:
        through = self.links[link]
        there = self.history.mark is None or self.history.mark.idx in through.server.commits
        if self.history.unproven(through.origin):
            if not there:
                self.history = History()  # the run ends, and another one begins
                return
        else:
            assert there, "a write went on top of history that the server does not have"
        sent = self._tick()
        self.count += 1
        through.server.commits.append(self.count)
        self._tick()
        self.history.acknowledge(Mark(idx=self.count), through.origin, sent)

    @rule(link=st.integers(0, 1), server=st.integers(0, 9))
    def connect_anew(self, link: int, server: int) -> None:
        self.links[link] = self._connected(self.servers[server % len(self.servers)])

    @rule(lost=st.integers(0, 3), server=st.integers(0, 9))
    def promote_a_standby(self, lost: int, server: int) -> None:
        kept = self.servers[server % len(self.servers)].commits
        self.servers.append(Server(str(len(self.servers)), kept[: max(0, len(kept) - lost)]))

    @rule(lost=st.integers(0, 3), server=st.integers(0, 9))
    def crash(self, lost: int, server: int) -> None:
        """As when a backend is killed: the server's start stays the same, its connections end."""
        crashed = self.servers[server % len(self.servers)]
        if lost:
            del crashed.commits[-lost:]
        self.links = [
            self._connected(link.server) if link.server is crashed else link for link in self.links
        ]


TestFailovers = Failovers.TestCase
TestFailovers.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(
    ("origin", "unproven"),
    [
        (Origin("a", 1.0), False),
        (Origin("a", 5.0), True),
        (Origin("b", 1.0), True),
        (Origin(None, 1.0), True),
    ],
    ids=["older, same server", "newer", "another server", "a pooler"],
)
def test_a_connection_has_to_prove_unless_it_is_older_and_of_the_same_server(
    origin: Origin, unproven: bool
) -> None:
    history = History()
    assert not history.unproven(origin)
    through = Origin("a", 2.0)
    history.acknowledge(Mark("", "c"), through, 4.0)
    assert history.unproven(origin) is unproven
    assert not history.unproven(through)
    history.doubt()
    assert history.unproven(through)
