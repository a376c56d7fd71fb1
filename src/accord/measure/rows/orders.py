"""Preferences that contradict each other: pairs in both directions, and cycles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accord.measure.rows.words import Hashes, combine

Edges = NDArray[np.int64]


def contradictions(winners: Hashes, losers: Hashes) -> tuple[Edges, Edges]:
    """The preferences (indices) whose reverse is also among the preferences, each with the first
    reverse one.

    `winners` and `losers` [E] are hashes of a response with its prompt.
    """
    forward, reverse = combine(winners, losers), combine(losers, winners)
    at = np.flatnonzero(np.isin(reverse, forward))
    order = at[np.argsort(forward[at], kind="stable")]
    return at, order[np.searchsorted(forward[order], reverse[at])]


def cycles(winners: Hashes, losers: Hashes) -> tuple[Edges, Edges]:
    """The preferences on a cycle of three responses or more, such as A over B over C over A, each
    with the number, from 0, of the group of responses that cycles join.

    A preference is on a cycle where both responses lie in one strongly connected component. Pairs
    in both directions are not considered (`contradictions`).
    """
    at = np.setdiff1d(np.arange(len(winners)), contradictions(winners, losers)[0])
    while True:  # what never loses or never wins is on no cycle
        on = np.isin(winners[at], losers[at]) & np.isin(losers[at], winners[at])
        if on.all():
            break
        at = at[on]
    if not len(at):
        return at, at
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes, index = np.unique(np.concatenate([winners[at], losers[at]]), return_inverse=True)
    source, target = index[: len(at)], index[len(at) :]
    graph = coo_array((np.ones(len(at), np.int8), (source, target)), shape=(len(nodes),) * 2)
    _, component = connected_components(graph, connection="strong")
    inside = (component[source] == component[target]) & (source != target)
    return at[inside], np.unique(component[source[inside]], return_inverse=True)[1]
