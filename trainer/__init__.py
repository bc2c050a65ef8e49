"""The QLoRA trainer that runs on the rented instance; it knows nothing of money or of costguard."""
