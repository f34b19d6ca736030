"""The network: encoder, fusion, head, and the segmentor made of them."""
