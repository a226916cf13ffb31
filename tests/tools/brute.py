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
                if routing.partition.order != "tiles":  # runs of a shot's tokens, its first tokens aside
                    piece = 0
                    through = raster * sum(shot_of[u] == shot_of[t] for u in range(t_count)) + place
                    number = (through if routing.partition.order == "columns" else place * height * width + raster) - (
                        routing.links.static == "first tokens"
                    ) * min(routing.links.static_tokens, height * width)
                    cell = ("anchor",) if anchor else (number // routing.partition.chunk_tokens,)
                result[layout.video_start + t * height * width + raster] = (
                    "video", shot_of[t], piece, *cell, "static" if static else "",
                )  # fmt: skip
    return result


def attend(q, k, v, layout, starts, routing, scale, tiles=(), counts=None, lse=None, order=None):
    """q, k, v [B, H, N, D] float64 arrays -> ([B, H, N, D], {(b, h, query): set of chosen labels}).

    tiles: the queries that share a list, where routing.lists is "union"
    counts: top-k of every head; routing.budget.top_k by default
    lse: [B, H, N], filled with the log-sum-exp of what every query saw
    order: tokens in the order of the chunks, of which 64 share a scale, where routing.precision is "8 bits"
    """
    if routing.repair.repair_rows:
        found = attend(q, k, v, layout, starts, routing.changed(repair_rows=0), scale, tiles, counts, lse)
        return _repaired(found[0], q, k, v, layout, routing.repair, scale), found[1]
    if routing.partition.order == "frames or columns":
        return _better_order(q, k, v, layout, starts, routing, scale)
    out, chosen_by = np.zeros_like(q), {}
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            label = labels(layout, starts, routing)
            if routing.partition.order == "alike":
                label = _alike(k[b, h], label, layout, routing.partition.chunk_tokens)
            members: dict = {}
            for token, name in enumerate(label):
                members.setdefault(name, []).append(token)
            groups = _together(label, members, routing, q[b, h], layout)
            near = _near(label, members, layout, routing)
            keep_shots = _outer(q[b, h], k[b, h], label, routing)
            open_to = [_open_to(mine, members, routing, keep_shots) for mine in label]
            asked = [q[b, h, mates] for mates in groups]
            unlike = _unlike(k[b, h] - k[b, h].mean(0), members, routing)
            value = [
                {n: _score(x, k[b, h][members[n]], routing, scale) for n in names if n not in unlike}
                for x, names in zip(asked, open_to, strict=True)
            ]
            if routing.score.exact:
                share = [_mass(q[b, h], k[b, h], tokens, members, scale) for tokens in groups]
                value = [{n: mine[n] for n in names} for mine, names in zip(share, open_to, strict=True)]
            budget = routing.budget
            if budget.rule == "best of head":
                chosen = _best_of_head(value, budget.top_p)
            else:
                k_best = counts[h] if counts else budget.top_k
                keys_values = k[b, h], v[b, h]
                errs = [_errs(x, *keys_values, names, members, scale) for x, names in zip(asked, value, strict=True)]
                chosen = [_choose(*mine, members, budget, scale, k_best) for mine in zip(value, errs, strict=True)]
            for i, mine in enumerate(label):
                visible = set(_visible(mine, members, routing))
                if routing.links.own == routing.links.near == "none" and value[i] and not chosen[i]:
                    chosen[i].add(max(value[i], key=value[i].get))
                alone = len(groups[i]) == 1 or not routing.score.guard
                if not alone and _cosine(q[b, h], groups[i]) <= routing.score.guard:
                    chosen[i] |= set(open_to[i])
                chosen[i] |= {n for n in open_to[i] if n in unlike} | {n for n in visible if (mine, n) in near}
            if routing.lists == "union":
                own = [{n for n in members if _mandatory(mine, n, routing)} for mine in label]
                lists = [set.union(*(chosen[i] | own[i] for i in tile)) for tile in tiles]
                for tile, shared in zip(tiles, lists, strict=True):
                    for i in tile:
                        chosen[i] = shared & set(open_to[i])
            eight = _eight_bits(q[b, h], k[b, h], order) if routing.precision == "8 bits" else None
            for i, mine in enumerate(label):
                exact = q[b, h, i] @ k[b, h].T if eight is None or mine[0] != "video" else eight[i]
                row = _one(exact, q[b, h, i], k[b, h], v[b, h], mine, chosen[i], members, routing, scale)
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


def _score(queries, block, routing, scale):
    """queries: of a row, or of all that choose together."""
    if routing.score.descriptor == "sub-means":
        pairs = [np.exp(scale * (a @ b)) for a in _parts(queries) for b in _parts(block)]
        return np.log(np.mean(pairs)) / scale
    if routing.score.descriptor == "both mean+max+min":
        kinds = [[x.mean(0), x.max(0), x.min(0)] for x in (queries, block)]
        return np.mean([a @ b for a, b in zip(*kinds, strict=True)])
    query = queries.mean(0)
    mean = query @ block.mean(0)
    bound = sum(max(x, 0) * block[:, i].max() + min(x, 0) * block[:, i].min() for i, x in enumerate(query))
    return {"mean": mean, "minmax": bound, "mean+max+min": (mean + bound) / 2}[routing.score.descriptor]


def _mass(q, k, tokens, members, scale):
    """Of every chunk the share of full attention, the mean over some tokens."""
    share = np.exp(q[tokens] @ k.T * scale)
    share = (share / share.sum(1, keepdims=True)).mean(0)
    return {name: share[block].sum() for name, block in members.items()}


def _parts(x):
    """The means of four parts; a token on an edge is in both."""
    n = len(x)
    return [np.mean([x[i] for i in range(n) if 4 * i < (p + 1) * n and 4 * (i + 1) > p * n], 0) for p in range(4)]


def _errs(queries, keys, values, names, members, scale):
    """Of every chunk: how far its tokens are from what its means would give."""
    query, found = queries.mean(0), {}
    for name in names:
        block = members[name]
        pooled = np.exp(scale * (query @ keys[block].mean(0))) * values[block].mean(0)
        found[name] = sum(((np.exp(scale * (query @ keys[j])) * values[j] - pooled) ** 2).sum() for j in block)
    return found


def _choose(value, errs, members, budget, scale, k):
    """value, errs: of every chunk that may be chosen."""
    best = sorted(value, key=value.get, reverse=True)[:k]
    weight = {name: len(members[name]) * np.exp(value[name] * scale) for name in value}
    share, fewest = 0.0, []
    for name in sorted(value, key=weight.get, reverse=True):
        if share >= budget.top_p * sum(weight.values()) and budget.top_p < 1:
            break
        fewest.append(name)
        share += weight[name]
    if budget.rule == "top-p from top-k on":
        return set(fewest) | set(sorted(value, key=weight.get, reverse=True)[:k])
    if budget.rule == "error per cost":
        if budget.top_p >= 1:
            return set(value)
        by_mass = sorted(value, key=weight.get, reverse=True)
        free = sum(len(members[n]) for n in by_mass[: max(len(fewest), 2 * k)])
        sure = by_mass[:k]
        free -= sum(len(members[n]) for n in sure)
        for name in sorted(by_mass[k:], key=lambda n: errs[n] / len(members[n]), reverse=True):
            if free <= 0:
                break
            sure.append(name)
            free -= len(members[name])
        return set(sure)
    limit = np.mean([*value.values()]) + budget.beta * np.std([*value.values()]) if value else 0.0
    high = [name for name in value if value[name] > limit]
    return set({"top-k": best, "top-p": fewest, "threshold": high, "top-k or top-p": best + fewest}[budget.rule])


def _best_of_head(value, share):
    """One pool of (token, chunk) pairs, the best first."""
    pool = sorted(((x, -i, name) for i, mine in enumerate(value) for name, x in mine.items()), key=lambda p: p[0])[::-1]
    low, high = (pool[-1][0], pool[0][0]) if pool else (0, 0)
    weight = [(x - low) / (high - low) if high > low else 1.0 for x, _, _ in pool]
    chosen, held = [set() for _ in value], 0.0
    for (_, minus, name), w in zip(pool, weight, strict=True):
        if held >= share * sum(weight) and share < 1:
            break
        chosen[-minus].add(name)
        held += w
    return chosen


def _spread(layout, count):
    """Tokens spread over the video, one in every equal stretch."""
    video = layout.grid[0] * layout.grid[1] * layout.grid[2]
    count = min(count, video)
    edges = [i * video // count for i in range(count + 1)]
    places = [e + int(i * 0.6180339887498949 % 1.0 * (f - e)) for i, (e, f) in enumerate(zip(edges, edges[1:]))]
    return [layout.video_start + place for place in places]


def _repaired(out, q, k, v, layout, repair, scale):
    """Every channel of what is missing on some rows as a ridge regression, of all channels at once in row space."""
    result, rows = out.copy(), _spread(layout, repair.repair_rows)
    video = range(layout.video_start, layout.video_start + layout.grid[0] * layout.grid[1] * layout.grid[2])
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            weight = np.exp(scale * q[b, h, rows] @ k[b, h].T)
            exact = weight @ v[b, h] / weight.sum(1, keepdims=True)
            mine = out[b, h, rows]
            missing = exact - mine
            x = (mine - mine.mean(0)) / np.maximum(mine.std(0), 1e-5)
            y = missing - missing.mean(0)
            directions = np.linalg.svd(y)[2][: repair.repair_rank]
            dual = np.linalg.solve(x @ x.T + 0.1 * np.eye(len(rows)), y)
            for i in video:
                asked = (out[b, h, i] - mine.mean(0)) / np.maximum(mine.std(0), 1e-5)
                fitted = (asked @ x.T) @ dual
                result[b, h, i] = out[b, h, i] + missing.mean(0) + sum((fitted @ d) * d for d in directions)
            result[b, h, rows] = exact
    return result


def _better_order(q, k, v, layout, starts, routing, scale):
    """Per head the order whose result is nearer to full attention, on 64 tokens spread over the video."""
    out, chosen_by, rows = np.zeros_like(q), {}, _spread(layout, 64)
    both = [routing.changed(order=order) for order in ("raster", "columns")]
    found = [attend(q, k, v, layout, starts, one, scale) for one in both]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            weight = np.exp(scale * q[b, h, rows] @ k[b, h].T)
            full = weight @ v[b, h] / weight.sum(1, keepdims=True)
            which = np.argmin([((one[b, h, rows] - full) ** 2).sum() for one, _ in found])
            out[b, h] = found[which][0][b, h]
            chosen_by |= {key: its for key, its in found[which][1].items() if key[:2] == (b, h)}
    return out, chosen_by


def k_means(x, count):
    """Ten rounds from tokens spread evenly -> the cluster of each."""
    count = min(count, len(x))
    middle = [x[i * len(x) // count] for i in range(count)]
    for turn in range(11):
        label = [int(np.argmin([((one - m) ** 2).sum() for m in middle])) for one in x]
        if turn < 10:
            middle = [x[[a == c for a in label]].mean(0) if c in label else middle[c] for c in range(count)]
    return label


def _alike(keys, label, layout, size):
    """Labels where the video's tokens of a shot are told apart by cluster."""
    result, shots = list(label), {name[1] for name in label if name[0] == "video"}
    frames, tokens = layout.frames, layout.grid[1] * layout.grid[2]

    def time(i):
        at = i - layout.video_start
        return frames[at // tokens], at % tokens

    for shot in shots:
        its = sorted((i for i, name in enumerate(label) if name[:2] == ("video", shot)), key=time)
        for i, cluster in zip(its, k_means(keys[its], -(-len(its) // size)), strict=True):
            if label[i][3] != "anchor":
                result[i] = ("video", shot, 0, cluster, "")
    return result


def _together(label, members, routing, queries, layout):
    """For every token those that choose with it: of `shared` neighbouring chunks that always see the same."""
    if not routing.score.shared:
        return [[i] for i in range(len(label))]
    seen: dict = {}
    for name in members:
        same = frozenset(n for n in members if _mandatory(name, n, routing)) if name[0] == "video" else name
        seen.setdefault((same, _shot(name)), []).append(name)
    if routing.partition.order == "alike":
        return _alike_queries(seen.values(), members, routing, queries, label)
    mates = {}
    for names in seen.values():
        for low in range(0, len(names), routing.score.shared):
            some = names[low : low + routing.score.shared]
            mates |= dict.fromkeys(some, [t for n in some for t in members[n]])
    return [mates[name] for name in label]


def _alike_queries(seen, members, routing, queries, label):
    """Clusters of the queries that always see the same, in the order of their keys' clusters."""
    found = {}
    for names in seen:
        its = [t for n in sorted(names, key=lambda n: n[3] if n[0] == "video" else 0) for t in members[n]]
        cluster = [0] * len(its)
        if names[0][0] == "video":
            cluster = k_means(queries[its], -(-len(its) // (routing.score.shared * routing.partition.chunk_tokens)))
        for t, mine in zip(its, cluster, strict=True):
            found[t] = [u for u, other in zip(its, cluster, strict=True) if other == mine]
    return [found[t] for t in range(len(label))]


def _cosine(x, tokens):
    unit = [x[t] / np.linalg.norm(x[t]) for t in tokens]
    return np.mean([a @ b for a in unit for b in unit])


def _unlike(keys, members, routing):
    return {n for n in members if routing.score.guard and _cosine(keys, members[n]) <= routing.score.guard}


def _near(label, members, layout, routing):
    """Pairs (chunk of a row, chunk it reads because of where it stands)."""
    links, (frames, height, width) = routing.links, layout.grid
    video = [n for n in members if n[0] == "video"]
    at = {n: [np.unravel_index(t - layout.video_start, layout.grid) for t in members[n]] for n in video}
    if links.near == "box":
        corner = {n: tuple(map(min, zip(*at[n], strict=True))) for n in video}
        edges = [sorted({c[axis] for c in corner.values()}) for axis in range(3)]
        tile = {n: [edges[axis].index(corner[n][axis]) for axis in range(3)] for n in video}

        def inside(a, b, axis):
            count, size = len(edges[axis]), links.box[axis]
            low = min(max(a - size // 2, 0), max(count - size, 0))
            return low <= b < low + size

        return {(a, b) for a in video for b in video if all(inside(tile[a][x], tile[b][x], x) for x in range(3))}
    if links.near == "band":
        count, tokens = frames * height * width, height * width
        columns = routing.partition.order == "columns"
        stand = {n: [(h * width + w) * frames + t if columns else t * tokens + h * width + w for t, h, w in at[n]]
                 for n in video}  # fmt: skip
        size = max(map(len, at.values()))
        reach = int(np.ceil(count * (1 - np.sqrt(1 - links.band)) / size)) * size

        def sees(a, b):
            span = range(min(stand[b]), max(stand[b]) + 1)
            return span[0] <= max(stand[a]) + reach and span[-1] >= min(stand[a]) - reach or span[0] < tokens

        return {(a, b) for a in video for b in video if sees(a, b)}
    if links.near == "touching":
        return {
            (a, b)
            for a in video
            for b in video
            if any(max(abs(x - y) for x, y in zip(s, t, strict=True)) <= 1 for s in at[a] for t in at[b])
        }
    if links.near == "radial":
        size, tokens = max(map(len, at.values())), height * width

        def sees(x, i, y, j):
            apart = abs(i - j)
            reach = 2 ** len(bin(tokens)[2:]) / 2 ** (len(bin(apart)[2:]) if apart else 0)
            if j and reach < size and apart % int(size / reach):
                return False
            band = {0: tokens, 1: tokens // 2}.get(apart, max(size, reach * links.decay))
            return j == 0 or abs(x - y) <= band

        def read(a, b, i, j):
            rows = [h * width + w for t, h, w in at[a] if t == i]
            columns = [h * width + w for t, h, w in at[b] if t == j]
            seen = [sum(sees(x, i, y, j) for x in rows) for y in columns]
            some = sum(count > 0 for count in seen)
            return bool(some) and sum(count > size / 3 for count in seen) / some > 0.6

        pairs = [(i, j) for i in range(frames) for j in range(frames)]
        return {(a, b) for a in video for b in video if a == b or any(read(a, b, i, j) for i, j in pairs)}
    return set()


def count_of_head(table, routing, head):
    """k of one head: the density of every possible k is tried."""
    if not routing.budget.head_density:
        return routing.budget.top_k
    gaps = [
        abs(table.density(k, routing.candidates.causal) - routing.budget.head_density[head])
        for k in range(len(table.chunks) + 1)
    ]
    return gaps.index(min(gaps))


def _eight_bits(q, k, order):
    """Every q . k as 8-bit numbers give it."""
    digits, exponent = np.frexp(k.mean(0))
    mean = np.ldexp(np.rint(digits * 256) / 256, exponent)  # bfloat16 has eight binary digits
    out = np.zeros((len(q), len(q)))
    for low in range(0, len(order), 64):
        some = order[low : low + 64]
        step = np.abs(k[some] - mean).max() / 127
        keys = np.floor((k[some] - mean) / step + 0.5) if step else 0 * k[some]
        for i, query in enumerate(q):
            own = np.abs(query).max() / 127
            whole = np.floor(query / own + 0.5) if own else 0 * query
            assert max(np.abs(keys).max(), np.abs(whole).max()) <= 127
            out[i, some] = own * step * (keys @ whole) + query @ mean
    return out


def _one(exact, query, keys, values, mine, chosen, members, routing, scale):
    """exact: the query with every key."""
    mandatory = {name for name in members if _mandatory(mine, name, routing)}
    terms = [(exact[j] * scale, values[j]) for name in mandatory | chosen for j in members[name]]
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
    return routing.links.own == "video" or (routing.links.own == "chunk" and name == mine)


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
