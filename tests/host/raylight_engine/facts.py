"""The seam of raylight 1.5.1 (commit c049571) and xfuser 0.4.5 as in their source: file -> function -> arguments."""

XFUSER = "xfuser/core/long_ctx_attention/hybrid/attn_layer.py"
SIGNATURES = {
    "raylight/distributed_modules/attention.py": {"make_xfuser_attention": "attn_type, sync_ulysses"},
    "raylight/distributed_worker/ray_worker.py": {
        "RayWorker.model_function_runner": "self, fn, *args, **kwargs",
        "RayWorker.model_function_runner_get_values": "self, fn, *args, **kwargs",
        "RayWorker.get_parallel_dict": "self",
        "RayWorker.common_ksampler": "self, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent, "
        "denoise=1.0, disable_noise=False, start_step=None, last_step=None, force_full_denoise=False, "
        "grouped_output=False",
        "RayWorker.custom_sampler": "self, add_noise, noise_seed, cfg, positive, negative, sampler, sigmas, "
        "latent_image, grouped_output=False",
        "RayWorker.custom_sampler_advanced": "self, add_noise, noise_seed, guider_spec, sampler, sigmas, latent_image, "
        "grouped_output=False",
    },
    XFUSER: {
        "xFuserLongContextAttention.forward": "self, attn, query: Tensor, key: Tensor, value: Tensor, *, "
        "joint_tensor_query=None, joint_tensor_key=None, joint_tensor_value=None, dropout_p=0.0, softmax_scale=None, "
        "causal=False, window_size=(-1, -1), alibi_slopes=None, deterministic=False, return_attn_probs=False, "
        "joint_strategy='none'",
    },
}
