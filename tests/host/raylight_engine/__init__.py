"""raylight without Ray and without GPUs: its workers are processes that meet over gloo, told by pipes.

`ray`      stands in for Ray's actors: what is sent goes through cloudpickle, as Ray does it, and is done in order
`worker`   what runs in a process: raylight's own code where MOC_RAYLIGHT_DIR names a folder with its package `raylight`
           and xfuser's `xfuser`, else `stand_in`
`stand_in` the seam of raylight that MoC uses, in as few lines as it takes; `facts` are what it was held against
"""
