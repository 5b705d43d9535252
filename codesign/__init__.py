"""codesign: language-model architectures for a device."""
