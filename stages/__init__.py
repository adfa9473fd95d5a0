"""The verbs and the sentences: one file a stage, one file a recipe."""
