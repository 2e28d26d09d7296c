"""decoupe on Ray Serve: as many servers as are asked for, on as many machines as Ray has.

serve run deploy/ray.yaml
"""

from __future__ import annotations

import os

from ray import serve

from decoupe.server.app import Settings, create_app

SETTINGS = Settings(token=os.environ["DECOUPE_TOKEN"], local=False)


@serve.deployment
@serve.ingress(lambda: create_app(SETTINGS))
class Decoupe:
    """One server, with a worker of its own."""


app = Decoupe.bind()
