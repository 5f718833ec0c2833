"""Small embedded models so that a first picture needs no download; see MODELS.md."""
