use image::{DynamicImage, GrayImage, ImageBuffer, Pixel, RgbImage};

/// `image` in 8 bits of RGB, what is transparent over white.
pub(super) fn rgb(image: DynamicImage) -> RgbImage {
    let image = upper_bytes(image);
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let (width, height) = (image.width(), image.height());
    let pixels = image.into_rgba8();
    let mut flat = RgbImage::new(width, height);
    for (flat, pixel) in flat.pixels_mut().zip(pixels.pixels()) {
        let [colour @ .., alpha] = pixel.0;
        flat.0 = colour.map(|byte| over_white(byte, alpha));
    }
    flat
}

/// `image` in 8 bits, of 16 the upper ones, as Pillow takes them.
fn upper_bytes(image: DynamicImage) -> DynamicImage {
    match image {
        DynamicImage::ImageLuma16(image) => DynamicImage::ImageLuma8(upper(&image)),
        DynamicImage::ImageLumaA16(image) => DynamicImage::ImageLumaA8(upper(&image)),
        DynamicImage::ImageRgb16(image) => DynamicImage::ImageRgb8(upper(&image)),
        DynamicImage::ImageRgba16(image) => DynamicImage::ImageRgba8(upper(&image)),
        image => image,
    }
}

fn upper<P: Pixel<Subpixel = u16>, Q: Pixel<Subpixel = u8>>(
    image: &ImageBuffer<P, Vec<u16>>,
) -> ImageBuffer<Q, Vec<u8>> {
    let bytes = image.as_raw().iter().map(|value| (value >> 8) as u8);
    let (width, height) = image.dimensions();
    // As many, for the pixels have the same channels.
    ImageBuffer::from_raw(width, height, bytes.collect()).unwrap_or_else(|| ImageBuffer::new(0, 0))
}

/// `byte` of that opacity over 255, rounded.
fn over_white(byte: u8, alpha: u8) -> u8 {
    let [byte, alpha] = [byte, alpha].map(u32::from);
    ((byte * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

/// The brightness of `image`, with Pillow's weights (ITU-R 601-2) and rounding.
pub(super) fn grey(image: &RgbImage) -> GrayImage {
    let brightness = |[r, g, b]: [u8; 3]| {
        let [r, g, b] = [r, g, b].map(u32::from);
        ((19595 * r + 38470 * g + 7471 * b + 32768) >> 16) as u8
    };
    let bytes = image.pixels().map(|pixel| brightness(pixel.0)).collect();
    let (width, height) = image.dimensions();
    GrayImage::from_raw(width, height, bytes).unwrap_or_default()
}
