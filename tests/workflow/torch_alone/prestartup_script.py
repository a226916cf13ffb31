"""ComfyUI runs this before it loads anything: these packages are not there."""

import sys

for name in ("triton", "flash_attn", "sageattention", "scenedetect", "cv2", "transnetv2_pytorch"):
    sys.modules[name] = None
