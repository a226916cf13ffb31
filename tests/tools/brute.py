"""Mixture of Contexts from first principles: Python loops over single queries in float64, sharing no code with moc/.

A token's chunk is a label worked out from its own (t, h, w); nothing is sorted, pooled or masked in bulk.
"""

from __future__ import annotations

import numpy as np


def labels(layout, starts, routing):
    """One label per token: (kind, span number) or ("video", shot, piece of the shot, row, column, static?)."""
    t_count, height, width = layout.grid
    tile_t, tile_h, tile_w = routing.partition.tile or (1, height, width)
    frames = list(layout.frames)
    shot_of = {t: sum(1 for s in starts if s <= frames[t]) - 1 for t in range(t_count)}
    result = [None] * layout.length
    for number, span in enumerate(layout.spans):
        for i in range(span.start, span.stop):
            result[i] = (span.kind, number)
    for t in range(t_count):
        siblings = sorted((u for u in range(t_count) if shot_of[u] == shot_of[t]), key=lambda u: frames[u])
        place, piece_offset = siblings.index(t), 0
        if routing.links.static == "first frame" and tile_t > 1:
            if place:
                siblings, place, piece_offset = siblings[1:], place - 1, 1
            else:
                siblings = siblings[:1]
        pieces = -(-len(siblings) // tile_t)
        piece = piece_offset + place * pieces // len(siblings)
        first = t == min((u for u in range(t_count) if shot_of[u] == shot_of[t]), key=lambda u: frames[u])
        for h in range(height):
            for w in range(width):
                raster = h * width + w
                anchor = routing.links.static == "first tokens" and first and raster < routing.links.static_tokens
                static = anchor or (routing.links.static == "first frame" and piece == 0)
                cell = ("anchor",) if anchor else (h // tile_h, w // tile_w)
                result[layout.video_start + t * height * width + raster] = (
                    "video", shot_of[t], piece, *cell, "static" if static else "",
                )  # fmt: skip
    return result


def attend(q, k, v, layout, starts, routing, scale, tiles=(), counts=None, lse=None):
    """q, k, v [B, H, N, D] float64 arrays -> ([B, H, N, D], {(b, h, query): set of chosen labels}).

    tiles: the queries that share a list, where routing.lists is "union"
    counts: top-k of every head; routing.budget.top_k by default
    lse: [B, H, N], filled with the log-sum-exp of what every query saw
    """
    label = labels(layout, starts, routing)
    members: dict = {}
    for token, name in enumerate(label):
        members.setdefault(name, []).append(token)
    out, chosen_by = np.zeros_like(q), {}
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            keep_shots = _outer(q[b, h], k[b, h], label, routing)
            open_to = [_open_to(mine, members, routing, keep_shots) for mine in label]
            rules = members, routing, scale, counts[h] if counts else routing.budget.top_k
            chosen = [_choose(x, k[b, h], names, *rules) for x, names in zip(q[b, h], open_to, strict=True)]
            if routing.lists == "union":
                own = [{n for n in members if _mandatory(mine, n, routing)} for mine in label]
                lists = [set.union(*(chosen[i] | own[i] for i in tile)) for tile in tiles]
                for tile, shared in zip(tiles, lists, strict=True):
                    for i in tile:
                        chosen[i] = shared & set(open_to[i])
            for i, mine in enumerate(label):
                row = _one(q[b, h, i], k[b, h], v[b, h], mine, chosen[i], members, routing, scale)
                out[b, h, i] = row[0]
                if lse is not None:
                    lse[b, h, i] = row[1]
                chosen_by[b, h, i] = chosen[i]
    return out, chosen_by


def _visible(mine, members, routing):
    """What could be chosen, in the order of the chunks."""
    free = [n for n in members if not _mandatory(mine, n, routing)]
    return [n for n in free if not (routing.candidates.causal and _shot(n) > _shot(mine))]


def _open_to(mine, members, routing, keep_shots):
    visible = _visible(mine, members, routing)
    return [n for n in visible if keep_shots is None or _shot(n) < 0 or n[1] in keep_shots[_shot(mine)]]


def _choose(query, keys, open_to, members, routing, scale, k):
    def score(name):
        block = keys[members[name]]
        mean = query @ block.mean(0)
        bound = sum(max(x, 0) * block[:, i].max() + min(x, 0) * block[:, i].min() for i, x in enumerate(query))
        return {"mean": mean, "minmax": bound, "mean+max+min": (mean + bound) / 2}[routing.score.descriptor]

    value = {name: score(name) for name in open_to}
    best = sorted(open_to, key=value.get, reverse=True)[:k]
    weight = {name: len(members[name]) * np.exp(value[name] * scale) for name in open_to}
    share, fewest = 0.0, []
    for name in sorted(open_to, key=weight.get, reverse=True):
        if share >= routing.budget.top_p * sum(weight.values()) and routing.budget.top_p < 1:
            break
        fewest.append(name)
        share += weight[name]
    limit = np.mean([*value.values()]) + routing.budget.beta * np.std([*value.values()]) if value else 0.0
    high = [name for name in open_to if value[name] > limit]
    return set(
        {"top-k": best, "top-p": fewest, "threshold": high, "top-k or top-p": best + fewest}[routing.budget.rule]
    )


def count_of_head(table, routing, head):
    """k of one head: the density of every possible k is tried."""
    if not routing.budget.head_density:
        return routing.budget.top_k
    gaps = [
        abs(table.density(k, routing.candidates.causal) - routing.budget.head_density[head])
        for k in range(len(table.chunks) + 1)
    ]
    return gaps.index(min(gaps))


def _one(query, keys, values, mine, chosen, members, routing, scale):
    mandatory = {name for name in members if _mandatory(mine, name, routing)}
    terms = [(query @ keys[j] * scale, values[j]) for name in mandatory | chosen for j in members[name]]
    if routing.tail == "pooled":
        for name in set(_visible(mine, members, routing)) - chosen:
            block = members[name]
            terms.append((query @ keys[block].mean(0) * scale + np.log(len(block)), values[block].mean(0)))
    top = max(logit for logit, _ in terms)
    weights = [np.exp(logit - top) for logit, _ in terms]
    mean = sum(w * value for w, (_, value) in zip(weights, terms, strict=True)) / sum(weights)
    return mean, top + np.log(sum(weights))


def _shot(name):
    return name[1] if name[0] == "video" else -1


def _mandatory(mine, name, routing):
    if mine[0] != "video" or name[0] == "text" or name[-1] == "static":
        return True
    if name[0] != "video":
        return routing.links.references == "linked"
    if routing.links.own == "shot":
        return name[1] == mine[1]
    if routing.links.own == "frame":
        reach = -(-routing.links.window // (routing.partition.tile or (1,))[0])
        return name[1] == mine[1] and abs(name[2] - mine[2]) <= reach
    return name == mine


def _outer(q, k, label, routing):
    """Shots that each shot may route into."""
    if routing.candidates.shots_kept is None:
        return None
    shots = sorted({n[1] for n in label if n[0] == "video"})
    rows = {s: [i for i, n in enumerate(label) if n[0] == "video" and n[1] == s] for s in shots}
    keep = {}
    for s in shots:
        others = [o for o in shots if o != s and not (routing.candidates.causal and o > s)]
        others.sort(key=lambda o, s=s: q[rows[s]].mean(0) @ k[rows[o]].mean(0), reverse=True)
        keep[s] = {s, *others[: routing.candidates.shots_kept]}
    return keep
