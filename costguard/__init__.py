"""Set a yuan budget, go to bed: unattended QLoRA on rented GPUs, with a cap that holds."""

__version__ = "0.1.0"
