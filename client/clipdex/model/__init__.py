"""What a model's card says is done to a picture or a text before the model sees it."""
