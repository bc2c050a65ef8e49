"""What runs on the rented instance: it watches the training, remembers, and pulls its own plug.

Standard library plus `pynvml`, shipped as one file. README.md beside this file holds the protocol.
"""

from __future__ import annotations

VERSION = "1"
