"""Published methods: every one of them on every backend, and what it reads against its authors' rule on random inputs.

The rules are written down here once more as their papers and code state them, on blocks and without our chunks.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from moc.attention import moc_attention
from moc.chunks.build import build_chunks
from moc.chunks.layout import Span, TokenLayout
from moc.chunks.orders import ORDERS
from moc.config import CHOOSING, MoCSettings, RoutingConfig
from moc.errors import MoCError
from moc.methods import METHODS
from moc.routing.candidates import candidates
from moc.routing.selection import Selection
from tests.tools import brute
from tests.tools.cases import qkv
from tests.unit.backends.test_registries import EVERY

SHOTS = TokenLayout(8 * 6 * 10 + 4, (8, 6, 10), 4, (Span("text", 0, 4),))
GRID = (4, 8, 8)
ONE_SHOT = TokenLayout(math.prod(GRID), GRID)


def everything(method: str) -> tuple[tuple[str, MoCSettings], ...]:
    return (("", METHODS[method].settings), *METHODS[method].models.items())


ALL = [pytest.param(r, id=f"{m} {n} {i}") for m in METHODS for n, s in everything(m) for i, r in enumerate(s.routings)]


@pytest.mark.slow
@pytest.mark.parametrize("routing", ALL)
@pytest.mark.parametrize("backend", [name for name in EVERY if name != "reference"])
def test_a_method_is_the_same_on_every_backend(backend, routing):
    table = build_chunks(SHOTS, (0, 3), routing)
    q, k, v = (x.float() for x in qkv(SHOTS, batch=1, dim=16))
    out, want = (moc_attention(q, k, v, table, routing, backend=name) for name in (backend, "reference"))
    torch.testing.assert_close(out, want, rtol=0, atol=5e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_says_what_it_is_and_whose(method):
    said = METHODS[method]
    assert "arXiv" in said.source or "pull request" in said.source
    assert not said.sees.endswith(".") and "|" not in said.sees + said.differs


def read(routing: RoutingConfig, q: Tensor, k: Tensor, layout: TokenLayout = ONE_SHOT) -> tuple[Tensor, Tensor]:
    """(what every chunk's first row reads [H, C, C], the chunk of every token [N])."""
    table = build_chunks(layout, (0,), routing)
    t = table.tensors("cpu")
    selection = Selection(q[..., table.order, :], k[..., table.order, :], table, routing, q.shape[-1] ** -0.5)
    mandatory, _ = candidates(table, routing, t.starts, torch.device("cpu"))
    return (selection.of(t.starts).chosen | mandatory)[0], t.chunk_of[t.inverse]


def inputs() -> tuple[Tensor, Tensor]:
    q, k, _ = qkv(ONE_SHOT, batch=1, heads=3, dim=16)
    return q, k


def by_block(x: Tensor, chunk: Tensor) -> list[Tensor]:
    """x [1, H, N, D] -> for every chunk its tokens [H, L, D]."""
    return [x[0][:, chunk == c] for c in range(int(chunk.max()) + 1)]


def means(x: Tensor, chunk: Tensor) -> Tensor:
    return torch.stack([block.mean(1) for block in by_block(x, chunk)], 1)


def softmax_map(q: Tensor, k: Tensor, chunk: Tensor) -> Tensor:
    return (means(q, chunk) @ means(k, chunk).mT / q.shape[-1] ** 0.5).softmax(-1)


def test_vsa_keeps_the_top_share_of_cubes_by_mean_query():
    routing = METHODS["VSA"].settings.routing.changed(tile=(2, 4, 4), density=None, top_k=2)
    q, k = inputs()
    got, chunk = read(routing, q, k)
    t, h, w = np.unravel_index(np.arange(ONE_SHOT.length), GRID)
    assert torch.equal(chunk, torch.from_numpy(t // 2 * 4 + h // 4 * 2 + w // 4))
    best = softmax_map(q, k, chunk).topk(2, -1).indices  # ceil((1 - s) n) of 8 cubes at s = .75
    assert torch.equal(got, torch.zeros_like(got).scatter(-1, best, True))


def test_jenga_keeps_a_count_or_a_share_of_blocks_and_their_neighbours():
    routing = METHODS["Jenga"].settings.routing.changed(chunk_tokens=16, density=None, top_k=2, top_p=0.2)
    q, k = inputs()
    got, chunk = read(routing, q, k)
    assert torch.equal(chunk[torch.from_numpy(ORDERS["gilbert"][0](GRID))], torch.arange(256) // 16)
    share, order = softmax_map(q, k, chunk).sort(-1, descending=True)
    needed = ((share.cumsum(-1) <= 0.2).sum(-1) + 1).clamp(min=2)
    want = torch.zeros_like(got).scatter(-1, order, torch.arange(16) < needed[..., None])
    assert 2 < needed.max() < 16
    at = torch.stack(torch.meshgrid(*map(torch.arange, GRID), indexing="ij"), -1).view(-1, 3)
    beside = (at[:, None] - at).abs().amax(-1) <= 1
    for a, b in beside.nonzero().tolist():
        want[:, chunk[a], chunk[b]] = True
    assert torch.equal(got, want)


@pytest.mark.parametrize("guard", [0.0, 0.1])
def test_spargeattn_joins_two_blocks_of_rows_and_trusts_no_mixed_block(guard):
    settings = {"density": None, "chunk_tokens": 16, "guard": guard}
    routing = METHODS["SpargeAttn"].settings.routing.changed(**settings, rule="top-p", top_p=0.4)
    q, k = inputs()
    common = torch.randn(3, 16, 1, 16, generator=torch.Generator().manual_seed(5), dtype=q.dtype)
    mixed = torch.linspace(0, 1.2, 16)[:, None, None]
    q, k = (x + (common * mixed).expand(3, 16, 16, 16).flatten(1, 2) for x in (q, k))
    got, chunk = read(routing, q, k)
    rows = chunk // 2

    def alike(x, group):
        return torch.stack(
            [torch.nn.functional.normalize(b, dim=-1).mean(1).square().sum(-1) for b in by_block(x, group)], 1
        )

    like_k = alike(k - k.mean(-2, keepdim=True), chunk) > guard
    like_q = alike(q, rows) > guard
    score = (means(q, rows) @ means(k, chunk).mT / 4.0).masked_fill(~like_k[:, None], -torch.inf)
    share, order = score.softmax(-1).sort(-1, descending=True)
    taken = share.cumsum(-1) - share < 0.4
    want = torch.zeros_like(score, dtype=torch.bool).scatter(-1, order, taken) & like_k[:, None]
    want = want | ~like_k[:, None] | ~like_q[..., None]
    assert guard == 0.0 or (0 < like_k.float().mean() < 1 and 0 < like_q.float().mean() < 1)
    assert torch.equal(got, want.repeat_interleave(2, 1))


@pytest.mark.parametrize("turn", range(3))
def test_vmoba_spends_one_budget_on_all_pairs_of_a_head(turn):
    sizes = ((1, 8, 8), (4, 4, 2), (2, 4, 4))
    routing = METHODS["VMoBA"].settings.routings[turn].changed(tile=sizes[turn], top_p=0.3)
    q, k = inputs()
    table = build_chunks(ONE_SHOT, (0,), routing)
    order = torch.from_numpy(table.order)
    got = Selection(q[..., order, :], k[..., order, :], table, routing, 0.25).of(slice(0, 256)).chosen[0]
    chunk = table.tensors("cpu").chunk_of
    score = q[0][:, order] @ means(k[..., order, :], chunk).mT  # [H, N, C]
    other = chunk[:, None] != torch.arange(int(chunk.max()) + 1)
    for head in range(3):
        pool = score[head][other]
        weight = (pool - pool.min()) / (pool.max() - pool.min())
        best, place = weight.sort(descending=True)
        count = int((best.cumsum(0) < 0.3 * best.sum()).sum()) + 1
        want = torch.zeros_like(pool, dtype=torch.bool)
        want[place[:count]] = True
        assert torch.equal(got[head][other], want) and not got[head][~other].any()


def test_sta_sees_a_window_of_tiles_that_stays_inside():
    layout = TokenLayout(5 * 4 * 6, (5, 4, 6))
    routing = METHODS["STA"].settings.routing.changed(tile=(1, 1, 1), box=(3, 1, 5))
    q, k, _ = qkv(layout, batch=1, heads=1, dim=4)
    got, chunk = read(routing, q, k, layout)
    for a, b in product(range(layout.length), repeat=2):
        inside = True
        for x, y, n, w in zip(*(np.unravel_index(i, layout.grid) for i in (a, b)), layout.grid, (3, 1, 5), strict=True):
            centre = min(max(x, w // 2), n - 1 - w // 2)
            inside &= abs(int(y) - int(centre)) <= w // 2
        assert bool(got[0, chunk[a], chunk[b]]) == inside


@pytest.mark.parametrize("decay", [0.2, 0.95])
def test_radial_thins_out_with_the_distance_of_frames(decay):
    """Frames of 64 tokens in blocks of 16: bands of 32, 32, 16 ... tokens, and every second frame from 4 on."""
    frames, tokens, size = 9, 64, 16
    layout = TokenLayout(frames * tokens, (frames, 8, 8))
    routing = METHODS["Radial"].settings.routing.changed(chunk_tokens=size, decay=decay)
    q, k, _ = qkv(layout, batch=1, heads=1, dim=4)
    got, _ = read(routing, q, k, layout)
    place = torch.arange(tokens)
    want = torch.zeros(frames, tokens // size, frames, tokens // size, dtype=torch.bool)
    for i, j in product(range(frames), repeat=2):
        apart = abs(i - j)
        reach = 2 ** tokens.bit_length() / 2 ** apart.bit_length()
        width = tokens if apart == 0 else tokens // 2 if apart == 1 else max(reach * decay, size)
        band = (place[:, None] - place).abs() <= width
        if reach < size and apart % int(size / reach):
            band[:] = False
        if j == 0:
            band[:] = True
        column = band.view(tokens // size, size, tokens // size, size).float().mean(1)
        want[i, :, j] = (column > 1 / 3).sum(-1) / ((column > 0).sum(-1) + 1e-9) > 0.6
    assert torch.equal(got[0], want.flatten(0, 1).flatten(1))
    assert 0.1 < want.float().mean() < 0.9


def codes_of(places: np.ndarray, seed: int) -> Tensor:
    """[N, 16]: a direction of its own for every place."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(int(places.max()) + 1, 16, generator=generator, dtype=torch.float64)
    return directions[torch.from_numpy(places)]


def test_svg_gives_every_head_the_order_whose_band_fits_it():
    """Blocks of 16; a head that looks at its frame, and one that looks at its place in all frames."""
    routing = METHODS["SVG"].settings.routing.changed(chunk_tokens=16)
    frame, place = np.divmod(np.arange(256), 64)
    keys = torch.stack((codes_of(frame, 1), codes_of(place, 2)))[None]
    _, noise, v = qkv(ONE_SHOT, batch=1, heads=2, dim=16)
    q, k = 4 * keys, keys + 0.1 * noise
    wants = []
    for stand in (np.arange(256), place * 4 + frame):  # in reading order, and through all frames
        block = torch.from_numpy(stand) // 16
        width = math.ceil(256 * (1 - math.sqrt(0.7)) / 16) * 16
        last_seen, first_seen = block * 16 + 15 + width, block * 16 - width
        start = block * 16
        mask = (start <= last_seen[:, None]) & (start + 15 >= first_seen[:, None]) | (start < 64)
        assert 0.3 < mask.double().mean() < 0.7
        wants.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, mask))
    full = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    worse = [[float((one - full)[0, head].square().sum()) for one in wants] for head in range(2)]
    assert worse[0][0] < worse[0][1] and worse[1][1] < worse[1][0]
    out = moc_attention(q, k, v, build_chunks(ONE_SHOT, (0,), routing), routing)
    torch.testing.assert_close(out, torch.stack((wants[0][0, 0], wants[1][0, 1]))[None])


def clustered(routing: RoutingConfig, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Labels of a head's queries and keys [N], as SVG 2 tells them apart."""
    size = routing.partition.chunk_tokens
    of_keys = torch.tensor(brute.k_means(k.numpy(), -(-len(k) // size)))
    order = of_keys.argsort(stable=True)
    of_queries = torch.empty_like(of_keys)
    of_queries[order] = torch.tensor(brute.k_means(q[order].numpy(), -(-len(q) // (size * routing.score.shared))))
    return of_queries, of_keys


def centres(x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """(means, sizes) of clusters."""
    names = label.unique()
    return torch.stack([x[label == n].mean(0) for n in names]), torch.stack([(label == n).sum() for n in names])


def test_svg_2_keeps_the_clusters_that_hold_a_share_of_the_mass_for_clusters_of_queries():
    routing = METHODS["SVG 2"].settings.routing.changed(chunk_tokens=12, top_k=3, top_p=0.4)
    q, k, v = qkv(ONE_SHOT, batch=1, heads=2, dim=16)
    q = q * 2
    out = moc_attention(q, k, v, build_chunks(ONE_SHOT, (0,), routing), routing)
    for head in range(2):
        of_queries, of_keys = clustered(routing, q[0, head], k[0, head])
        (mean_q, _), (mean_k, sizes) = centres(q[0, head], of_queries), centres(k[0, head], of_keys)
        weight = sizes * (mean_q @ mean_k.T / 4.0).exp()
        share, order = (weight / weight.sum(-1, keepdim=True)).sort(-1, descending=True)
        removed = share.cumsum(-1) > 0.4
        removed[:, 1:] = removed[:, :-1].clone()
        removed[:, 0] = False
        removed[:, :3] = False
        kept = torch.zeros_like(removed).scatter(-1, order, ~removed)
        assert 3 < kept.sum(-1).max() < len(sizes)
        mask = kept[of_queries.unique(return_inverse=True)[1]][:, of_keys.unique(return_inverse=True)[1]]
        want = torch.nn.functional.scaled_dot_product_attention(q[:, head], k[:, head], v[:, head], mask)
        torch.testing.assert_close(out[:, head], want)


def test_svg_ear_reads_what_centroids_get_wrong_and_takes_centroids_for_the_rest():
    routing = METHODS["SVG-EAR"].settings.routing.changed(chunk_tokens=12, top_k=1, top_p=0.4)
    q, k, v = qkv(ONE_SHOT, batch=1, heads=2, dim=16)
    q = q * 2
    out = moc_attention(q, k, v, build_chunks(ONE_SHOT, (0,), routing), routing)
    for head in range(2):
        mine = q[0, head], k[0, head], v[0, head]
        of_queries, of_keys = (x.unique(return_inverse=True)[1] for x in clustered(routing, *mine[:2]))
        (mean_q, _), (mean_k, sizes), (mean_v, _) = (
            centres(x, label) for x, label in zip(mine, (of_queries, of_keys, of_keys), strict=True)
        )
        logits = mean_q @ mean_k.T / 4.0
        share, by_mass = (logits + sizes.log()).softmax(-1).sort(-1, descending=True)
        within = torch.cat((torch.ones(len(mean_q), 1, dtype=torch.bool), share.cumsum(-1)[:, :-1] <= 0.4), -1)
        within[:, :2] = True  # twice the one that is read anyway
        kept = torch.zeros_like(within)
        for row in range(len(mean_q)):
            sure = int(by_mass[row, 0])
            budget = int(sizes[by_mass[row]][within[row]].sum() - sizes[sure])
            exact = (mean_q[row] @ mine[1].T / 4.0).exp()[:, None] * mine[2]
            pooled = (logits[row].exp()[:, None] * mean_v)[of_keys]
            error = torch.zeros(len(sizes), dtype=exact.dtype).index_add(0, of_keys, (exact - pooled).square().sum(-1))
            kept[row, sure] = True
            for cluster in (error / sizes).argsort(descending=True).tolist():
                if cluster != sure and budget > 0:
                    kept[row, cluster] = True
                    budget -= int(sizes[cluster])
        assert not kept.all()
        seen = kept[of_queries]
        tokens = (mine[0] @ mine[1].T / 4.0).masked_fill(~seen[:, of_keys], -torch.inf)
        rest = (mine[0] @ mean_k.T / 4.0 + sizes.log()).masked_fill(seen, -torch.inf)
        want = torch.cat((tokens, rest), -1).softmax(-1) @ torch.cat((mine[2], mean_v))
        torch.testing.assert_close(out[0, head], want)


def test_sparsepr_corrects_what_it_reads_as_on_a_few_exact_rows():
    """Ridge regression as ordinary least squares with a row more for every channel."""
    routing = METHODS["SparsePR"].settings.routing.changed(chunk_tokens=12, repair_rows=40, repair_rank=5)
    q, k, v = qkv(ONE_SHOT, batch=1, heads=2, dim=16)
    table = build_chunks(ONE_SHOT, (0,), routing)
    sparse = moc_attention(q, k, v, table, routing.changed(repair_rows=0))[0]
    full = torch.nn.functional.scaled_dot_product_attention(q, k, v)[0]
    out = moc_attention(q, k, v, table, routing)[0]
    rows = torch.isclose(out, full, rtol=0, atol=1e-12).all(-1).all(0).nonzero().flatten()
    assert len(rows) == 40 and rows.diff().max() < 14
    for head in range(2):
        x, y = sparse[head, rows], full[head, rows] - sparse[head, rows]
        middle, spread, centre = x.mean(0), x.std(0, correction=0), y.mean(0)
        ridge = torch.cat(((x - middle) / spread, 0.1**0.5 * torch.eye(16, dtype=x.dtype)))
        fit = torch.linalg.lstsq(ridge, torch.cat((y - centre, torch.zeros(16, 16, dtype=x.dtype)))).solution
        most = torch.linalg.svd(y - centre).Vh[:5]
        want = sparse[head] + (sparse[head] - middle) / spread @ fit @ most.T @ most + centre
        want[rows] = full[head, rows]
        torch.testing.assert_close(out[head], want)
    assert (out - full).norm() < (sparse - full).norm()


def test_a_corrected_result_is_not_merged_with_other_keys():
    routing = METHODS["SparsePR"].settings.routing
    q, k, v = qkv(ONE_SHOT, batch=1, heads=1)
    with pytest.raises(MoCError, match="cannot be merged with other keys"):
        moc_attention(q, k, v, build_chunks(ONE_SHOT, (0,), routing), routing, lse=torch.zeros(1, 1, 256))


def test_subblock_keeps_the_blocks_whose_parts_would_weigh_most():
    routing = METHODS["SubBlock"].settings.routing.changed(chunk_tokens=16, density=None, top_k=3)
    q, k = inputs()
    got, chunk = read(routing, q * 3, k)
    assert torch.equal(chunk, torch.arange(256) // 16)
    parts_q, parts_k = (x[0].view(3, 16, 4, 4, 16).mean(3) for x in (q * 3, k))
    pairs = torch.einsum("hiad,hjbd->hijab", parts_q, parts_k) / 4.0
    best = pairs.exp().sum((-1, -2)).log().topk(3, -1).indices
    want = torch.zeros_like(got).scatter(-1, best, True)
    assert torch.equal(got, want)
    assert not torch.equal(want, torch.zeros_like(got).scatter(-1, softmax_map(q, k, chunk).topk(3, -1).indices, True))


def test_veda_looks_at_extremes_of_queries_and_keys():
    routing = METHODS["Veda"].settings.routing.changed(tile=(2, 4, 4), density=None, top_k=2)
    q, k = inputs()
    got, chunk = read(routing, q, k)

    def features(x):
        blocks = torch.stack(by_block(x, chunk), 1)  # [H, C, L, D]
        return torch.cat((blocks.mean(2), blocks.amax(2), blocks.amin(2)), -1)

    best = (features(q) @ features(k).mT).topk(2, -1).indices
    assert torch.equal(got, torch.zeros_like(got).scatter(-1, best, True))


def test_holocine_remembers_the_first_frame_of_every_shot_and_chooses_nothing():
    routing = METHODS["HoloCine"].settings.routing
    layout, starts = TokenLayout(6 * 4, (6, 2, 2)), (0, 2, 3)
    q, k, v = qkv(layout)
    frame = np.arange(24) // 4
    shot = np.searchsorted(starts, frame, "right")
    mask = torch.from_numpy((shot[:, None] == shot) | np.isin(frame, starts))
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
    out = moc_attention(q, k, v, build_chunks(layout, starts, routing), routing)
    torch.testing.assert_close(out, want)


def test_lct_is_full_attention_over_all_shots():
    routing = METHODS["LCT"].settings.routing
    table = build_chunks(SHOTS, (0, 3), routing)
    assert table.density(0, False) == 1.0
    q, k, v = qkv(SHOTS, batch=1)
    out = moc_attention(q, k, v, table, routing)
    torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(q, k, v))


def test_sol_attn_reads_what_stands_out_and_pools_the_rest():
    routing = METHODS["Sol-Attn"].settings.routing.changed(chunk_tokens=16)
    assert routing.tail == "pooled"
    q, k = inputs()
    table = build_chunks(ONE_SHOT, (0,), routing)
    got = Selection(q, k, table, routing, 0.25).of(slice(0, 256)).chosen[0]
    chunk = table.tensors("cpu").chunk_of
    score = q[0] @ means(k, chunk).mT
    other = chunk[:, None] != torch.arange(16)
    for head, row in product(range(3), range(256)):
        mine = score[head, row][other[row]]
        want = mine > mine.mean() + mine.std(correction=0)
        assert torch.equal(got[head, row][other[row]], want)


@pytest.mark.parametrize("sharp", [1, 4])
def test_adaspa_keeps_the_blocks_of_most_attention_and_moves_budget_between_heads(sharp):
    """Sparsity .75 of 16 blocks: heads read 4 of them or, on the ladder, 2 and 6."""
    routing = METHODS["AdaSpa"].settings.routing.changed(chunk_tokens=16, density=None, top_k=4)
    q, k, _ = qkv(ONE_SHOT, batch=1, heads=6, dim=16)
    q, k = (x.unflatten(2, (16, 16)) for x in (q, k))
    q, k = ((x + n * x.mean(3, keepdim=True)).flatten(2, 3) for x, n in ((q, 4), (k, 8)))  # blocks that differ
    q = q * torch.linspace(0.2, sharp, 6, dtype=q.dtype)[:, None, None]  # and heads that care, more and more
    got, _ = read(routing, q, k)
    weights = (q[0] @ k[0].mT / 4.0).softmax(-1)
    w_sum = weights.view(6, 16, 16, 16, 16).sum((2, 4))  # eq. 13
    recall = (w_sum.topk(4, -1).values.sum((1, 2)) / w_sum.sum((1, 2))).tolist()
    n = min(sum(r > 0.8 for r in recall), 3)
    order = sorted(range(6), key=lambda h: recall[h], reverse=True)
    sparsity = dict.fromkeys(range(6), 0.75) | dict.fromkeys(order[:n], (1 + 0.75) / 2)
    sparsity |= dict.fromkeys(order[6 - n :], (3 * 0.75 - 1) / 2)
    assert n == {1: 1, 4: 3}[sharp]
    for head in range(6):
        best = w_sum[head].topk(round((1 - sparsity[head]) * 16), -1).indices
        want = torch.zeros(16, 16, dtype=torch.bool).scatter(-1, best, True)
        assert torch.equal(got[head], want), head


def test_adaspa_looks_for_blocks_at_two_steps():
    schedule = METHODS["AdaSpa"].settings.schedule
    assert schedule.choosing == "twice" and CHOOSING["twice"].at == (0.6,) and schedule.start_percent == 0.2
