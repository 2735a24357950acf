//! Fields of a request that are no plain values, written and read.

mod options;

/// Values of the program's own types: absent in what is written, and an error where they would be
/// lost.
pub(crate) mod absent {
    use serde::de::IgnoredAny;
    use serde::{Deserialize, Deserializer, Serializer, ser};

    /// A field that may hold nothing.
    pub(crate) trait Absent: Default {
        const NAME: &'static str;

        fn is_absent(&self) -> bool;
    }

    impl Absent for Option<std::sync::Arc<dyn sd_core::Guidance>> {
        const NAME: &'static str = "guidance";

        fn is_absent(&self) -> bool {
            self.is_none()
        }
    }

    impl Absent for sd_core::Extensions {
        const NAME: &'static str = "extensions";

        fn is_absent(&self) -> bool {
            self.is_empty()
        }
    }

    impl Absent for Vec<std::sync::Arc<dyn sd_core::Layer>> {
        const NAME: &'static str = "layers";

        fn is_absent(&self) -> bool {
            self.is_empty()
        }
    }

    impl Absent for crate::Components {
        const NAME: &'static str = "components";

        fn is_absent(&self) -> bool {
            let text_encoder = self.text_encoder.is_none();
            text_encoder && self.denoiser.is_none() && self.autoencoder.is_none()
        }
    }

    pub(crate) fn serialize<A: Absent, S: Serializer>(value: &A, to: S) -> Result<S::Ok, S::Error> {
        if value.is_absent() {
            return to.serialize_unit();
        }
        let name = A::NAME;
        Err(ser::Error::custom(format!(
            "{name} of the program's own types cannot be written"
        )))
    }

    pub(crate) fn deserialize<'a, A: Absent, D: Deserializer<'a>>(from: D) -> Result<A, D::Error> {
        match Option::<IgnoredAny>::deserialize(from)? {
            None => Ok(A::default()),
            Some(_) => {
                let name = A::NAME;
                Err(serde::de::Error::custom(format!(
                    "{name} cannot be read, set them in the program"
                )))
            }
        }
    }
}

/// A tensor as its shape and its values in f32.
pub(crate) mod tensor {
    use burn::tensor::{DType, Device, Tensor, TensorData};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

    #[derive(Serialize, Deserialize)]
    pub(super) struct Values {
        shape: [usize; 4],
        values: Vec<f32>,
    }

    impl Values {
        pub(super) fn of<E: ser::Error>(tensor: &Tensor<4>) -> Result<Self, E> {
            let values = tensor.try_to_vec_as::<f32>();
            Ok(Self {
                shape: tensor.dims(),
                values: values.map_err(E::custom)?,
            })
        }

        /// The tensor, on the default device, until the run moves it to its own.
        pub(super) fn tensor<E: de::Error>(self) -> Result<Tensor<4>, E> {
            let count = self
                .shape
                .iter()
                .try_fold(1usize, |n, side| n.checked_mul(*side));
            if count != Some(self.values.len()) {
                let (count, shape) = (self.values.len(), self.shape);
                return Err(E::custom(format!(
                    "{count} values are no tensor of {shape:?}"
                )));
            }
            let data = TensorData::new(self.values, self.shape);
            Ok(Tensor::from_data(data, (&Device::default(), DType::F32)))
        }
    }

    pub(crate) fn serialize<S: Serializer>(tensor: &Tensor<4>, to: S) -> Result<S::Ok, S::Error> {
        Values::of(tensor)?.serialize(to)
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Tensor<4>, D::Error> {
        Values::deserialize(from)?.tensor()
    }
}

/// A tensor, or none.
pub(crate) mod optional_tensor {
    use burn::tensor::Tensor;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::tensor::Values;

    pub(crate) fn serialize<S: Serializer>(
        tensor: &Option<Tensor<4>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let values = tensor.as_ref().map(Values::of).transpose()?;
        values.serialize(to)
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>>(
        from: D,
    ) -> Result<Option<Tensor<4>>, D::Error> {
        let values = Option::<Values>::deserialize(from)?;
        values.map(Values::tensor).transpose()
    }
}

/// A picture as width, height and bytes.
#[derive(serde::Serialize, serde::Deserialize)]
struct Pixels {
    width: u32,
    height: u32,
    bytes: Vec<u8>,
}

/// An RGB picture.
pub(crate) mod rgb {
    use image::RgbImage;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::Pixels;

    pub(crate) fn serialize<S: Serializer>(image: &RgbImage, to: S) -> Result<S::Ok, S::Error> {
        let (width, height) = image.dimensions();
        let bytes = image.as_raw().clone();
        Pixels {
            width,
            height,
            bytes,
        }
        .serialize(to)
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<RgbImage, D::Error> {
        let pixels = Pixels::deserialize(from)?;
        let image = RgbImage::from_raw(pixels.width, pixels.height, pixels.bytes);
        image.ok_or_else(|| de::Error::custom("too few bytes for the picture's size"))
    }
}

/// A grey picture, or none.
pub(crate) mod optional_grey {
    use image::GrayImage;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Grey(#[serde(with = "super::grey")] GrayImage);

    pub(crate) fn serialize<S: Serializer>(
        image: &Option<GrayImage>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        image.clone().map(Grey).serialize(to)
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>>(
        from: D,
    ) -> Result<Option<GrayImage>, D::Error> {
        let image = Option::<Grey>::deserialize(from)?;
        Ok(image.map(|Grey(image)| image))
    }
}

/// A grey picture.
pub(crate) mod grey {
    use image::GrayImage;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::Pixels;

    pub(crate) fn serialize<S: Serializer>(image: &GrayImage, to: S) -> Result<S::Ok, S::Error> {
        let (width, height) = image.dimensions();
        let bytes = image.as_raw().clone();
        Pixels {
            width,
            height,
            bytes,
        }
        .serialize(to)
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<GrayImage, D::Error> {
        let pixels = Pixels::deserialize(from)?;
        let image = GrayImage::from_raw(pixels.width, pixels.height, pixels.bytes);
        image.ok_or_else(|| de::Error::custom("too few bytes for the picture's size"))
    }
}
