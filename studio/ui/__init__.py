"""The pages: Gradio, one file a step. Everything they do goes through `studio.studio.Studio`."""
