"""The encoder's parts: inputs, backbone, attention, pooling, Matryoshka, and MoonEncoder, the sum."""
