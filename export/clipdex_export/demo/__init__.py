"""The demo model: a small CLIP trained on pictures that this package draws itself.

The way of a training picture, one file a step:

    sampling ─▶ scenes ─▶ draw ─▶ pixels ┐
                  └─▶ captions ─▶ texts ─┴▶ batches ─▶ train ─▶ checkpoint ─▶ evaluate

`queries` says what a caption means, so that it is known which captions fit which pictures. Everything but
`train` and `evaluate` works without torch: `make demo` draws its thousand pictures with numpy and Pillow.
"""
