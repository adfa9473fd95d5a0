"""How a denoiser learns; one method a file."""
