"""LoRA adapters: adding, switching, and several roles as views of one base."""
