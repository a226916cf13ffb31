"""Mixture of Contexts: routed attention for long, multi-shot video. Entry point of the node pack."""

WEB_DIRECTORY = "./js"


async def comfy_entrypoint():
    # Imported here and not above: test runners import this file too, where there is no ComfyUI.
    from comfy_api.latest import ComfyExtension
    from server import PromptServer

    from .moc.host.web.http import add_routes
    from .nodes import (
        apply,
        detect,
        heatmap,
        memory,
        probe,
        raylight,
        remake,
        routing,
        shot_conditioning,
        shots,
        windows,
    )

    class MoCExtension(ComfyExtension):
        async def get_node_list(self):
            of_shots = (*shots.NODES, *detect.NODES, *shot_conditioning.NODES)
            of_films = (*windows.NODES, *remake.NODES, *memory.NODES)
            return [*of_shots, *routing.NODES, *apply.NODES, *raylight.NODES, *of_films, *heatmap.NODES, *probe.NODES]

    if getattr(PromptServer, "instance", None) is not None:  # tools read the nodes without a server
        add_routes(PromptServer.instance.routes)
    return MoCExtension()
