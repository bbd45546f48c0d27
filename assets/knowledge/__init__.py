"""What chat sessions and documents say: entities, relations, observations, each with the place it was said."""
