"""Uniform-state diffusion and its few-step distillation (Sahoo et al. 2025, "The Diffusion Duality", arXiv
2506.10892).

``cache`` maps the Gaussian clock to keep probabilities, ``usdm`` holds posterior and NELBO, ``pairs`` the
coupled noisy states, ``curriculum`` the tempered-softmax input, ``consistency`` the distillation loss and its
rounds, ``sampling`` the samplers, ``model`` a small denoiser, ``words`` a task whose right answers are known.
"""
