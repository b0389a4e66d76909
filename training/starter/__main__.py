from training.starter import pictures, recipe
import sys, pathlib

w = pathlib.Path(sys.argv[1])
if sys.argv[2] == "vae":
    from training.starter import autoencoder

    autoencoder.train(recipe.load(), w)
elif sys.argv[2] == "unet":
    from training.starter import denoiser

    denoiser.train(recipe.load(), w)
else:
    for k in sys.argv[2:]:
        print(k, pictures.render(k, recipe.load(), w / "pictures"), flush=True)
