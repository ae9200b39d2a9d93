"""Put words on images in Python: one image with probabilities, and many at once."""

import diffzero as dz
from diffzero.data import digits_split

_, (images, labels) = digits_split()  # handwritten digits that the models were not trained on
words = ["digit one", "digit four", "digit seven"]

classifier = dz.ELBO(dz.load("tiny-sd"), draws=8).fit(words)
chosen = [image for image, label in zip(images, labels, strict=True) if label in (1, 4, 7)][:6]
print(classifier.predict(chosen))
print(classifier.predict_proba(chosen[:1]).round(3))

rank = dz.pipeline("tiny-clip", method="clip")
print(rank(chosen[0], candidate_labels=words, hypothesis_template="a photo of a {}"))
