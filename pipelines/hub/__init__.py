"""A run as a repository of the Hugging Face Hub: bundles, the report and a model card, in a folder or sent there."""
