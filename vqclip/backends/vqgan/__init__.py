"""The loop over a VQGAN's latents as a backend."""
