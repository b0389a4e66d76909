"""What a person may ask of the studio, by noun; each door checks whose a thing is."""
