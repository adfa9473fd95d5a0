"""What a denoiser is and what follows from having one."""
