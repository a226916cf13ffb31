"""Runs a Python script that ends when the process that started it ends, however that one ended.

python launch.py main.py [arguments]      (standard input: a pipe that the parent keeps open)
"""

import os
import runpy
import sys
import threading


def end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


threading.Thread(target=end_with_parent, daemon=True).start()
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
