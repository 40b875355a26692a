"""The encoder's parts: inputs, backbone, attention, pooling, Matryoshka, and the MoonEncoder that joins them."""
