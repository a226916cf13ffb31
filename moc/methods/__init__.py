"""Published methods by name, each in one file, as parts on the same engine. docs/methods.md compares them."""

from __future__ import annotations

from . import (
    adaspa,
    holocine,
    jenga,
    lct,
    moc,
    radial,
    sol_attn,
    sparge,
    sparsepr,
    sta,
    subblock,
    svg,
    svg2,
    svg_ear,
    veda,
    vmoba,
    vsa,
)
from .method import Method

METHODS: dict[str, Method] = {
    "MoC": moc.METHOD,
    "HoloCine": holocine.METHOD,
    "LCT": lct.METHOD,
    "Sol-Attn": sol_attn.METHOD,
    "VSA": vsa.METHOD,
    "Jenga": jenga.METHOD,
    "SpargeAttn": sparge.METHOD,
    "VMoBA": vmoba.METHOD,
    "STA": sta.METHOD,
    "Radial": radial.METHOD,
    "SVG": svg.METHOD,
    "SVG 2": svg2.METHOD,
    "SVG-EAR": svg_ear.METHOD,
    "SubBlock": subblock.METHOD,
    "Veda": veda.METHOD,
    "SparsePR": sparsepr.METHOD,
    "AdaSpa": adaspa.METHOD,
}
